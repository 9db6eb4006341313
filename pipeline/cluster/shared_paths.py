"""A check that every node of a joined cluster sees a job's local paths.

If a node did not, its reads would call every input missing, and what it writes would be lost.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import UnseenError
from pipeline.planning.machine import can_work
from segformer.checkpoints.hub.name import is_hub_name

LOOK_S = 60.0
"""Time for a node to look; it may have to start a process first."""


def check_shared_paths(paths: Sequence[str]) -> None:
    """Look for the paths that are neither URLs nor names on the Hub from every other node that can
    work now. Raises UnseenError."""
    local = [path for path in paths if "://" not in path and not is_hub_name(path)]
    if not local:
        return
    this_node = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != this_node]
    look = ray.remote(num_cpus=0, max_retries=0)(_missing)
    looks = []
    for node in others:
        if can_work(node["Resources"]):
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ref = look.options(scheduling_strategy=on_node).remote(local)
            looks.append((node["NodeManagerAddress"], ref))
    for address, ref in looks:
        try:
            missing = ray.get(ref, timeout=LOOK_S)
        except RayError:  # a node that goes meanwhile is the flow's business
            continue
        if missing:
            raise UnseenError(
                f"{missing[0]}: the node {address} of the cluster does not see it; put it on a file"
                " system that every node has under this path, or in an object store"
            )


def _missing(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]

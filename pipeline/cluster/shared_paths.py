"""Whether every node of a joined cluster sees a job's local paths.

Where one does not, its reads would call every input missing, and what it writes would be lost.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import UnseenError
from pipeline.planning.machine import can_work

LOOK_S = 60.0
"""A node may have to start a process first."""


def check_seen(paths: Sequence[str]) -> None:
    """Looks from each other node that is there now, at what is no URL. Raises UnseenError."""
    local = [path for path in paths if "://" not in path]
    if not local:
        return
    ours = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != ours]
    look = ray.remote(num_cpus=0, max_retries=0)(_unseen)
    looks = []
    for node in (node for node in others if can_work(node["Resources"])):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked = look.options(scheduling_strategy=there).remote(local)
        looks.append((node["NodeManagerAddress"], asked))
    for address, asked in looks:
        try:
            unseen = ray.get(asked, timeout=LOOK_S)
        except RayError:  # a node that goes meanwhile is for the flow to see
            continue
        if unseen:
            raise UnseenError(
                f"{unseen[0]}: the node {address} of the cluster does not see it; put it on a file"
                " system that every node has under this path, or in an object store"
            )


def _unseen(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if not os.path.exists(path)]

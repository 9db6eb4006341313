"""Whether a plain loop is the faster way through a job: Ray takes seconds to start.

Pure arithmetic over a plan's windows, at nominal rates, so that the choice does not depend on what
else the machine is doing.
"""

from __future__ import annotations

from pipeline.planning.workload import Workload
from pipeline.settings import AUTO, Execution

RAY_START_S = 10.0
"""What a run on Ray takes longer to start than the plain loop (docs/log.md)."""
SMALL_S = 60.0
"""The longest that a plain loop is trusted with: it has one replica and reads nothing meanwhile."""


def may_choose(execution: Execution) -> bool:
    """Whether the runner is Swath's to choose: nothing that the user asked for needs Ray."""
    chosen = execution.runner == AUTO
    return (
        chosen and execution.address is None and execution.shards.whole and not execution.replicas
    )


def is_small(on_ray: Workload, windows: float) -> bool:
    """Whether the plain loop is done with this number of windows before Ray's replicas are."""
    alone_s = windows * on_ray.alone.window_s
    on_ray_s = RAY_START_S + windows * on_ray.window_s / on_ray.machine.replicas
    return alone_s <= min(SMALL_S, on_ray_s)

"""What bounded a run, and what would relieve it. Pure arithmetic over its tally."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.driver.tracker import Tally
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.receipt import START_UP

READ, SEGMENT, FINISH, PUBLISH, DRIVER = "read", "segment", "finish", "publish", "driver"
"""The last one: the process that hands out the units."""


@dataclass(frozen=True)
class Bottleneck:
    """Of one run."""

    tally: Tally
    budget: MemoryBudget
    """Who works at once."""
    replicas: float
    """That were at work, on average where the pool grows."""
    startup_s: float
    driver_s: float
    """CPU seconds of the driver since the first unit; 0 where it does everything itself."""
    joined: bool
    """Whether the cluster was there before the run."""

    @property
    def stage(self) -> str:
        """The stage whose workers were the busiest, or starting."""
        tally, tasks = self.tally, max(1, self.budget.tasks)
        busy = {
            READ: tally.read_s / tasks,
            SEGMENT: tally.segment_s / self.replicas,
            FINISH: tally.finish_s / tasks,
            PUBLISH: tally.publish_s / self.budget.publishers,
            DRIVER: self.driver_s,
            START_UP: self.startup_s,
        }
        return max(busy, key=lambda stage: busy[stage])

    @property
    def relief(self) -> str:
        """The setting that would make the run faster, in one sentence without its end."""
        on_gpu = self.budget.machine.device == "cuda"
        if self.stage in (READ, SEGMENT, FINISH, PUBLISH) and not self.budget.tasks:
            every = "GPU" if on_gpu else "core"
            return f"--runner ray, which uses every {every} and reads and writes meanwhile"
        if self.stage == SEGMENT and on_gpu:
            return (
                "more GPUs; or --dtype float16, into another --output, where its"
                " small differences are acceptable"
            )
        more = "more CPU cores or a cluster (--address)"
        if self.joined:
            more = "more CPU nodes in the cluster"
        return {
            READ: f"{more}, for reads take what the replicas leave, or INPUTs that lie nearer",
            SEGMENT: f"{more}, with more --replicas, or a GPU",
            FINISH: f"{more}, or an --output whose disk or store takes writes faster",
            PUBLISH: f"{more}: at once as many shards are published as there are nodes, or more"
            " where many files are read at once",
            DRIVER: "a larger --block, into another --output: fewer and larger units; or several"
            " drivers with --shards",
            START_UP: "more INPUTs in one run: to start takes as long for many as for few",
        }[self.stage]

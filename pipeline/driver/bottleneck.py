"""What limited the speed of a run, and what would relieve it. Pure arithmetic over its tally."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.driver.tally import Tally
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.receipt import START_UP

READ, SEGMENT, FINISH, PUBLISH, DRIVER = "read", "segment", "finish", "publish", "driver"
"""The stages that can be busy. The driver is the process that hands out the units."""


@dataclass(frozen=True)
class Bottleneck:
    """The busiest part of one run."""

    tally: Tally
    budget: MemoryBudget
    """The processes that worked at the same time."""
    replicas: float
    """Replicas at work; their average number if the pool grew."""
    startup_s: float
    driver_s: float
    """CPU seconds of the driver since the first unit; 0 if it does everything itself."""
    joined: bool
    """Whether the cluster was running before the run."""

    @property
    def stage(self) -> str:
        """The stage whose workers were busiest; START_UP if that took longer than any was busy."""
        tally, tasks = self.tally, max(1, self.budget.tasks)
        busy_s = {
            READ: tally.read_s / tasks,
            SEGMENT: tally.segment_s / self.replicas,
            FINISH: tally.finish_s / tasks,
            PUBLISH: tally.publish_s / self.budget.publishers,
            DRIVER: self.driver_s,
            START_UP: self.startup_s,
        }
        return max(busy_s, key=lambda stage: busy_s[stage])

    @property
    def relief(self) -> str:
        """The setting that would make the run faster, as a sentence without its full stop."""
        on_gpu = self.budget.machine.device == "cuda"
        if self.budget.machine.loop_process and self.stage != START_UP:
            return "more images in one run: one process did this small job, many have all cores"
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
            READ: f"{more}, because reads use what the replicas leave, or INPUTs that are closer",
            SEGMENT: f"{more}, with more --replicas, or a GPU",
            FINISH: f"{more}, or an --output on a disk or store that is faster to write to",
            PUBLISH: f"{more}: as many shards are published at once as there are nodes, or more"
            " if many files are read at once",
            DRIVER: "a larger --block, into another --output: fewer and larger units; or several"
            " drivers with --shards",
            START_UP: "more images in one run: starting takes as long for many as for few",
        }[self.stage]

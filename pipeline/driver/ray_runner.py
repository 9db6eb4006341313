"""A run on Ray: the flow, its publishers and its metrics. The only file of this room that needs Ray
when it is imported."""

from __future__ import annotations

from pipeline.cluster.callbacks import PoolMeter
from pipeline.cluster.flow import Flow
from pipeline.cluster.metrics import Metrics
from pipeline.cluster.publishers import Publishers
from pipeline.cluster.stages import STAGES, Stages
from pipeline.driver.tracker import OnProgress, Tracker
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.settings import RAY
from pipeline.stages import Work


class RayRunner:
    """Computes and publishes on the Ray cluster at the address, or on one of its own."""

    name = RAY
    counts_retries = True

    def __init__(self, work: Work, address: str | None, stages: Stages | None) -> None:
        """stages: what the flow is made of; None: the stages of `swath run`."""
        self._work = work
        self._meter = PoolMeter()
        stages = stages or STAGES
        self.publisher = Publishers(work, stages.publish)
        self._flow = Flow(work, self.publisher, address, self._meter, stages)

    @property
    def connected_s(self) -> float | None:
        return self._meter.connected_s

    def reporting(self, on_progress: OnProgress | None) -> OnProgress:
        return Metrics(self._work.output, self._meter, on_progress)

    @property
    def budget(self) -> MemoryBudget:
        return self._work.budget

    def run_units(self, tracker: Tracker) -> None:
        """See `Flow.run_units`."""
        try:
            tracker.tally.retries += self._flow.run_units(tracker.open_units, tracker.poll)
        finally:  # a run that fails leaves a receipt, too
            tracker.tally.replica_s = self._meter.replica_s

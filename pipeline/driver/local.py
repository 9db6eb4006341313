"""The local runner: the plain loop in this process, and the publisher of every plain loop."""

from __future__ import annotations

from dataclasses import replace

from pipeline.driver.plain_loop import PlainLoop
from pipeline.driver.tracker import HEALINGS, OnProgress, Tracker
from pipeline.output.shard import Shard
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.settings import LOCAL
from pipeline.stages import ShardResult, Work

ROUNDS = 2 + HEALINGS
"""Times that the open units are asked for: a file may turn out to be damaged when its shard is
published."""


class LocalPublisher:
    """Publishes a shard as soon as it is complete, in this process."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._results: list[ShardResult] = []

    def start(self, shard: Shard) -> None:
        # The retries of this process are counted already.
        self._results.append(replace(self._work.publish(shard), retries=0))

    def advance(self) -> list[ShardResult]:
        results, self._results = self._results, []
        return results


class LocalRunner:
    """Does everything in this process. What kills the process kills the run."""

    name = LOCAL
    counts_retries = False
    connected_s = None

    def __init__(self, work: Work, loop: PlainLoop) -> None:
        self._work = work
        self._loop = loop
        self.publisher = LocalPublisher(work)

    @property
    def budget(self) -> MemoryBudget:
        return self._work.budget

    def reporting(self, on_progress: OnProgress | None) -> OnProgress:
        return on_progress or (lambda _progress: None)

    def run_units(self, tracker: Tracker) -> None:
        """Compute the open units one after the other, polling after each, until the time is up.

        Raises TransientError if a store does not answer, UnfinishedError if no replica can be
        loaded.
        """
        self._loop.load(self._work)
        for _ in range(ROUNDS):
            for unit in tracker.open_units():
                if self._work.out_of_time:
                    return
                self._loop.compute(self._work, unit)
                tracker.poll()

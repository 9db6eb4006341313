"""The runner of small jobs: a plain loop in a process of its own, and Ray if that dies.

Rows are the same either way: what has an outcome is in OUT, and whoever takes over computes the
rest.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.driver.local import ROUNDS, LocalPublisher
from pipeline.driver.loop_process import LoopProcess
from pipeline.driver.runner import Runner
from pipeline.driver.tracker import OnProgress, Tracker
from pipeline.errors import LOG, UnfinishedError, UsageError
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.processes.companion import CompanionDiedError
from pipeline.settings import LOCAL
from pipeline.stages import Work
from pipeline.unit import Unit


class LoopRunner:
    """Computes in another process, unit by unit, and publishes in this one meanwhile."""

    counts_retries = True

    def __init__(
        self, work: Work, loop: LoopProcess, take_over: Callable[[list[Unit]], Runner] | None
    ) -> None:
        """take_over: gives the runner for open units if the process dies; None: the run stops."""
        self._work = work
        self._loop = loop
        self._take_over = take_over
        self._successor: Runner | None = None
        self.publisher = LocalPublisher(work)
        if work.budget.need.replica_bytes:  # there are units to compute
            loop.load(work)

    @property
    def name(self) -> str:
        return self._successor.name if self._successor else LOCAL

    @property
    def budget(self) -> MemoryBudget:
        return self._successor.budget if self._successor else self._work.budget

    @property
    def connected_s(self) -> float | None:
        return self._successor.connected_s if self._successor else None

    def reporting(self, on_progress: OnProgress | None) -> OnProgress:
        return on_progress or (lambda _progress: None)

    def run_units(self, tracker: Tracker) -> None:
        """See `Runner.run_units`."""
        try:
            self._run(tracker)
        except CompanionDiedError as error:
            self._loop.close()
            self._succeed(tracker, error.died.how)

    def _run(self, tracker: Tracker) -> None:
        if tracker.open_units():
            self._loop.loaded(tracker.poll)
        for _ in range(ROUNDS):
            for unit in tracker.open_units():
                if self._work.out_of_time:
                    return
                # The first poll counts, and publishes, what the unit before has completed.
                tracker.tally.retries += self._loop.compute(self._work, unit, tracker.poll)
            tracker.poll()

    def _succeed(self, tracker: Tracker, how: str) -> None:
        """Let Ray compute what is open, each input that is to blame in a process of its own.

        Raises UnfinishedError if Ray may not, or if there is too little memory for it.
        """
        if self._take_over is None:
            raise UnfinishedError(f"the process of the plain loop: {how}; the same command resumes")
        LOG.warning("the process of the plain loop died (%s): Ray continues", how)
        try:
            self._successor = self._take_over(tracker.open_units())
        except UsageError as error:
            raise UnfinishedError(
                f"the process of the plain loop died ({how}), and Ray cannot continue: {error}"
            ) from error
        self._successor.run_units(tracker)

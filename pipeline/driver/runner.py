"""The Runner protocol: what computes the units of a run and publishes its shards."""

from __future__ import annotations

from typing import Protocol

from pipeline.driver.tracker import OnProgress, Publisher, Tracker
from pipeline.planning.memory_budget import MemoryBudget


class Runner(Protocol):
    """Computes units and publishes shards."""

    @property
    def name(self) -> str:
        """`local` or `ray`, for the receipt."""

    @property
    def budget(self) -> MemoryBudget:
        """The processes of the run, and their memory."""

    @property
    def connected_s(self) -> float | None:
        """When Ray was ready, on the monotonic clock; None: it is not, or is not needed."""

    @property
    def counts_retries(self) -> bool:
        """Whether the tracker's tally holds retries of other processes."""

    @property
    def publisher(self) -> Publisher:
        """The publisher of this run's shards."""

    def reporting(self, on_progress: OnProgress | None) -> OnProgress:
        """What a tracker calls with each Progress: `on_progress`, and the metrics of this runner
        if it has any."""

    def run_units(self, tracker: Tracker) -> None:
        """Compute the tracker's open units and poll it meanwhile, about once a second or after each
        unit; add to its tally what the units' outcomes do not tell. Units may be left open.

        Raises UnfinishedError if the rest would fail, too; TransientError if a store does not
        answer.
        """

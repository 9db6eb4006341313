"""The runner of a run: it computes and publishes in this process, or on Ray."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from pipeline.driver.local import LocalRunner
from pipeline.driver.tracker import OnProgress, Publisher, Tracker
from pipeline.errors import UsageError
from pipeline.stages import Work

if TYPE_CHECKING:
    from pipeline.cluster.stages import Stages


class Runner(Protocol):
    """Computes units and publishes shards."""

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


def choose_runner(work: Work, address: str | None, stages: Stages | None = None) -> Runner:
    """The local runner if one process does everything, else Ray's. stages: see `RayRunner`.

    Raises UsageError if Ray cannot be imported by this Python.
    """
    if not work.budget.tasks:
        return LocalRunner(work)
    if sys.flags.optimize > 1:  # ray/data/_internal/util.py completes them
        raise UsageError(
            "Ray Data needs the docstrings that PYTHONOPTIMIZE=2 or python -OO removes: unset it,"
            " or add --runner local"
        )
    from pipeline.driver.ray_runner import RayRunner  # noqa: PLC0415  Ray takes seconds to load

    return RayRunner(work, address, stages)

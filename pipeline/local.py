"""A plain loop over the stages in this process: the oracle for the Ray flow, same rows."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.replica import Replica
from pipeline.scene import Unit
from pipeline.stages import Work


def run_units(work: Work, open_units: Callable[[], list[Unit]], poll: Callable[[], None]) -> None:
    """Computes the units without an outcome one after the other and calls `poll` after each.

    Raises TransientError where a store does not answer. What kills the process kills the run.
    """
    replica = Replica(work)
    for unit in open_units():
        work.finish(replica.segment(work.read(unit)))
        poll()

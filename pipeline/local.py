"""A plain loop over the stages in this process: the oracle for the Ray flow, same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.replica import Replica
from pipeline.scene import Unit
from pipeline.stages import Work


def run_units(work: Work, units: Sequence[Unit], poll: Callable[[], None]) -> None:
    """Computes the units one after the other and calls `poll` after each."""
    replica = Replica(work)
    for unit in units:
        work.finish(replica.segment(work.read(unit)))
        poll()

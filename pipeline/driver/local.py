"""A plain loop over the stages in this process: the oracle for the Ray flow, same rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipeline.engine.replica import Replica
from pipeline.errors import one_line
from pipeline.failure import Failure
from pipeline.output.shard import Shard
from pipeline.stages import PublishedShard, Work
from pipeline.unit import Pixels, ReadUnit, Unit


class LocalPublisher:
    """Publishes a shard when it is complete."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._finished: list[PublishedShard] = []

    def start(self, shard: Shard) -> None:
        published = self._work.publish(shard)
        # What this process tries again is counted already.
        self._finished.append(replace(published, retries=0))

    def advance(self) -> list[PublishedShard]:
        finished, self._finished = self._finished, []
        return finished


def run_units(work: Work, open_units: Callable[[], list[Unit]], poll: Callable[[], None]) -> int:
    """Computes the units without an outcome one after the other and calls `poll` after each, as
    long as there is time.

    Returns how often other processes than this one tried something again: there are none. Raises
    TransientError where a store does not answer. What kills the process kills the run.
    """
    replica = Replica(work.job, work.access, work.sharing)
    for unit in open_units():
        if work.out_of_time:
            break
        read = _read(work, unit)
        work.finish(replace(replica.segment(read), brightness=read.brightness))
        poll()
    return 0


def _read(work: Work, unit: Unit) -> ReadUnit:
    """Block by block where memory is too short for all of them."""
    try:
        return work.read(unit)
    except MemoryError:
        pass
    blocks: list[Pixels | Failure] = []
    for block in unit.blocks:
        try:
            blocks += work.read(Unit(unit.shard, (block,))).blocks
        except MemoryError as error:
            why = one_line(error)
            blocks.append(
                work.failed(block, "read", "memory", f"took more memory than it may: {why}")
            )
    return ReadUnit(unit, tuple(blocks), read_s=0.0)

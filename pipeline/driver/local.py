"""A plain loop over the stages in this process: the oracle for the Ray flow, same rows."""

from __future__ import annotations

from dataclasses import replace

from pipeline.driver.tracker import OnProgress, Tracker
from pipeline.engine.replica import Replica
from pipeline.errors import one_line
from pipeline.failure import Failure
from pipeline.output.shard import Shard
from pipeline.stages import PublishedShard, Work
from pipeline.unit import Pixels, ReadUnit, Unit


class LocalPublisher:
    """Publishes a shard as soon as it is complete."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._published: list[PublishedShard] = []

    def start(self, shard: Shard) -> None:
        published = self._work.publish(shard)
        # The retries of this process are counted already.
        self._published.append(replace(published, retries=0))

    def advance(self) -> list[PublishedShard]:
        published, self._published = self._published, []
        return published


class LocalRunner:
    """Does everything in this process. What kills the process kills the run."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.publisher = LocalPublisher(work)

    def reporting(self, on_progress: OnProgress | None) -> OnProgress:
        return on_progress or (lambda _progress: None)

    def run_units(self, tracker: Tracker) -> None:
        """Compute the open units one after the other, polling after each, until the time is up.

        Raises TransientError if a store does not answer.
        """
        work = self._work
        replica = Replica(work.job, work.access, work.sharing)
        for unit in tracker.open_units():
            if work.out_of_time:
                break
            read = _read(work, unit)
            work.finish(replace(replica.segment(read), brightness=read.brightness))
            tracker.poll()


def _read(work: Work, unit: Unit) -> ReadUnit:
    """The unit's pixels; read block by block if memory is too short for all of them together."""
    try:
        return work.read(unit)
    except MemoryError:
        pass
    blocks: list[Pixels | Failure] = []
    for block in unit.blocks:
        try:
            blocks += work.read(Unit(unit.shard, (block,))).blocks
        except MemoryError as error:
            what = f"took more memory than it may: {one_line(error)}"
            blocks.append(work.failure(block, "read", "memory", what))
    return ReadUnit(unit, tuple(blocks), read_s=0.0)

"""A plain loop over the stages in this process: the oracle for the Ray flow, same rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from pipeline.driver.tracker import HEALINGS, OnProgress, Tracker
from pipeline.engine.replica import Replica
from pipeline.errors import one_line
from pipeline.failure import Failure
from pipeline.output.shard import Shard
from pipeline.stages import ShardResult, Work
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Unit
from pipeline.verdict import insist

T = TypeVar("T")

ROUNDS = 2 + HEALINGS
"""Times that the open units are asked for: a file may turn out to be damaged when its shard is
published."""


class LocalPublisher:
    """Publishes a shard as soon as it is complete."""

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

    def __init__(self, work: Work) -> None:
        self._work = work
        self.publisher = LocalPublisher(work)

    def reporting(self, on_progress: OnProgress | None) -> OnProgress:
        return on_progress or (lambda _progress: None)

    def run_units(self, tracker: Tracker) -> None:
        """Compute the open units one after the other, polling after each, until the time is up.

        Raises TransientError if a store does not answer, UnfinishedError if no replica can be
        loaded.
        """
        work = self._work
        replica = insist(
            f"{work.job.checkpoint}: no replica could be loaded",
            partial(Replica, work.job, work.access, work.sharing),
        )
        for _ in range(ROUNDS):
            for unit in tracker.open_units():
                if work.out_of_time:
                    return
                _compute(work, replica, unit)
                tracker.poll()


def _compute(work: Work, replica: Replica, unit: Unit) -> None:
    """Give the unit an outcome."""
    read = _read(work, unit)
    segmented = replace(_segment(work, replica, read), brightness=read.brightness)
    url = unit.blocks[0].scene.url
    insist(f"{url}: its unit's file cannot be made", partial(work.finish, segmented))


def _read(work: Work, unit: Unit) -> ReadUnit:
    """The unit's pixels; read block by block if memory is too short for all of them together."""
    try:
        return work.read(unit)
    except MemoryError:
        pass
    blocks: list[Pixels | Failure] = []
    read_s, retries = 0.0, 0
    for block in unit.blocks:
        read = _alone(work, block, "read", partial(work.read, Unit(unit.shard, (block,))))
        if isinstance(read, Failure):
            blocks.append(read)
            continue
        blocks += read.blocks
        read_s += read.read_s
        retries += read.retries
    return ReadUnit(unit, tuple(blocks), read_s, retries, work.brightness(unit, blocks))


def _segment(work: Work, replica: Replica, read: ReadUnit) -> SegmentedUnit:
    """The unit's class ids; computed block by block if memory is too short for all of them."""
    try:
        return work.segment(replica.segment, read)
    except MemoryError:
        pass
    pieces: list[SegmentedUnit] = []
    for piece in read.pieces():
        (block,) = piece.unit.blocks
        segment = partial(work.segment, replica.segment, piece)
        segmented = _alone(work, block, "segment", segment)
        if isinstance(segmented, Failure):
            segmented = SegmentedUnit.failed(piece.unit, segmented)
        pieces.append(segmented)
    joined = SegmentedUnit.joined(read.unit, pieces)
    return replace(joined, read_s=read.read_s, retries=read.retries)


def _alone(work: Work, block: Block, stage: str, do: Callable[[], T]) -> T | Failure:
    """The result of work on one block, or its Failure if memory is too short even for it alone."""
    try:
        return do()
    except MemoryError as error:
        what = f"took more memory than it may: {one_line(error)}"
        return work.failure(block, stage, "memory", what)

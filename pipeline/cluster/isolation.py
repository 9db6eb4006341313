"""A unit that got no outcome, scene by scene, each in a process that may die.

The last resort of `pipeline.cluster.flow`, and the only place that says crashed, timeout or memory.
Nothing is said of a scene unless its store answers right after.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from pipeline.cluster.stages import SegmentStage, read_guarded
from pipeline.errors import SwathError, TransientError, UnfinishedError, one_line
from pipeline.failure import Failure
from pipeline.stages import Work
from pipeline.unit import Block, ReadUnit, SegmentedUnit, Stitched, Unit

_GRACE_S = 60.0
"""To start a process, beyond the time that its work may take."""
_LOADING_S = 600.0
_ANSWER_S = 5.0


def segment_alone(work: Work, unit: Unit) -> None:
    """Gives the unit an outcome: what kills its process, hangs or takes all memory is quarantined.

    Raises TransientError where a store does not answer, UnfinishedError where no replica can be
    had.
    """
    replica = _Replica(work)
    try:
        pieces = [_piece(work, replica, Unit(unit.shard, (block,))) for block in unit.blocks]
    finally:
        replica.close()
    work.finish(
        SegmentedUnit(
            unit,
            tuple(piece.blocks[0] for piece in pieces),
            windows=sum(piece.windows for piece in pieces),
            read_s=sum(piece.read_s for piece in pieces),
            segment_s=sum(piece.segment_s for piece in pieces),
            retries=sum(piece.retries for piece in pieces),
        )
    )


def _piece(work: Work, replica: _Replica, piece: Unit) -> SegmentedUnit:
    (block,) = piece.blocks
    reader = ray.remote(max_retries=0, max_calls=1, memory=work.need.reader_bytes)(read_guarded)
    read = _outcome(work, block, "read", lambda: reader.remote(work, piece))
    if isinstance(read, Failure):
        return _failed(piece, read)
    if isinstance(read.blocks[0], Failure):
        return _failed(piece, read.blocks[0])
    segmented = _outcome(work, block, "segment", lambda: replica.segment(read))
    return _failed(piece, segmented) if isinstance(segmented, Failure) else segmented


def _failed(piece: Unit, failure: Failure) -> SegmentedUnit:
    blocks: tuple[Stitched | Failure, ...] = (failure,)
    return SegmentedUnit(piece, blocks, windows=0, read_s=0.0, segment_s=0.0, retries=0)


def _outcome(work: Work, block: Block, stage: str, start: Callable[[], Any]) -> Any:
    """The result of a piece of work, or the Failure of its block."""
    result = _tried(work, stage, start)
    if isinstance(result, _Ended) and result.error != "timeout":
        result = _tried(work, stage, start)  # it might have been its node, or its neighbour
    if not isinstance(result, _Ended):
        return result
    return work.failed(block, stage, result.error, result.what)


@dataclass(frozen=True)
class _Ended:
    """Why there is no result."""

    error: str
    what: str


def _tried(work: Work, stage: str, start: Callable[[], Any]) -> Any:
    """The result, or how it ended. Raises errors of our own: they are no single input's fault."""
    too_long = _Ended("timeout", f"took more than {work.unit_timeout_s:.0f} s")
    started = time.monotonic()
    try:
        ref = start()  # which may load a replica first, and finds no room for what it is given
        started = time.monotonic()
        return ray.get(ref, timeout=work.unit_timeout_s + _GRACE_S)
    except GetTimeoutError as error:  # what hangs is ended by its guard: this never had its turn
        raise TransientError(f"{stage}: Ray found no room for it in time") from error
    except OutOfMemoryError:
        return _Ended("memory", "took more memory than there is")
    except (WorkerCrashedError, RayActorError):
        if time.monotonic() - started >= work.unit_timeout_s:
            return too_long  # its guard has ended it
        return _Ended("crashed", "ended its process each time")
    except RayTaskError as task:
        cause = task.cause
        if isinstance(cause, SwathError):
            raise cause from task
        why = one_line(cause)
        if isinstance(cause, MemoryError):
            return _Ended("memory", f"took more memory than it may: {why}")
        # What is wrong with pixels is said in their Failure; an exception is the device's.
        raise UnfinishedError(
            f"{stage} fails with {type(cause).__name__}: {why}; the same command resumes the run"
        ) from task
    except RayError as lost:  # a node, or room for its result: OutOfDiskError, ObjectLostError ...
        raise TransientError(
            f"{stage}: lost with {type(lost).__name__}; do Ray's nodes have disk and memory left?"
        ) from lost


class _Replica:
    """A replica that is loaded when it is needed, and again after it has died."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._actor: Any = None

    def segment(self, read: ReadUnit) -> Any:
        """A reference to the SegmentedUnit."""
        if self._actor is None or not self._answers():
            self._load()
        return self._actor.segment.remote(read)

    def close(self) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def _load(self) -> None:
        """Twice, where the first is lost. Raises errors of our own, and UnfinishedError."""
        kind = ray.remote(
            num_gpus=self._work.budget.machine.gpus_per_replica,
            max_restarts=0,
            memory=self._work.need.replica_bytes,
        )(_Actor)
        for _ in range(2):
            self.close()
            self._actor = kind.remote()
            ended = _tried(
                replace(self._work, unit_timeout_s=_LOADING_S),
                "load",
                lambda: self._actor.load.remote(self._work),
            )
            if not isinstance(ended, _Ended):
                return
        raise UnfinishedError(
            f"{self._work.job.checkpoint}: a replica that loads it {ended.what}; the same command"
            " resumes the run"
        )

    def _answers(self) -> bool:
        try:
            ray.get(self._actor.__ray_ready__.remote(), timeout=_ANSWER_S)
        except RayError:
            return False
        return True


class _Actor:
    """A SegmentStage that is loaded by a call: of a failing `__init__` Ray keeps the text alone."""

    def load(self, work: Work) -> None:
        self._stage = SegmentStage(work)

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        return self._stage.segment(read)

"""A unit that got no outcome, scene by scene, each in a process that may die.

The last resort of `pipeline.cluster.flow`, and the only place that says crashed, timeout or memory.
No scene is blamed unless its store answers right after.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
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

from pipeline.cluster.ray_errors import root_cause
from pipeline.cluster.replica_actor import SegmentStage
from pipeline.cluster.stages import (
    finish_with_limits,
    read_with_limits,
    try_finish_with_limits,
)
from pipeline.errors import SwathError, TransientError, UnfinishedError, one_line
from pipeline.failure import Failure
from pipeline.stages import Work
from pipeline.unit import Block, ReadUnit, SegmentedUnit, Unit

_GRACE_S = 60.0
"""Time for starting a process, in addition to the limit of its work."""
_LOADING_S = 600.0
"""Time limit for loading a replica."""
_ANSWER_S = 5.0
"""Time within which a living actor answers."""


def segment_in_isolation(work: Work, unit: Unit) -> None:
    """Give the unit an outcome: a scene that kills its process, hangs or takes all memory is
    quarantined.

    Raises TransientError if a store does not answer, UnfinishedError if no replica can be loaded.
    """
    replica = IsolatedReplica(work)
    try:
        pieces = [_segment(work, replica, Unit(unit.shard, (block,))) for block in unit.blocks]
    finally:
        replica.close()
    _finish(work, SegmentedUnit.joined(unit, pieces))


def _segment(work: Work, replica: IsolatedReplica, piece: Unit) -> SegmentedUnit:
    """A unit of one block, segmented or with its Failure."""
    (block,) = piece.blocks
    reader = ray.remote(max_retries=0, max_calls=1, memory=work.need.reader_bytes)(read_with_limits)
    read = result_or_failure(work, block, "read", lambda: reader.remote(work, piece))
    if isinstance(read, Failure):
        return SegmentedUnit.failed(piece, read)
    if isinstance(read.blocks[0], Failure):
        return SegmentedUnit.failed(piece, read.blocks[0])
    segmented = result_or_failure(work, block, "segment", lambda: replica.segment(read))
    return SegmentedUnit.failed(piece, segmented) if isinstance(segmented, Failure) else segmented


def _finish(work: Work, segmented: SegmentedUnit) -> None:
    """Write the unit's file, without the blocks that end a process alone."""
    task = ray.remote(max_retries=0, max_calls=1, memory=work.need.writer_bytes)
    finish, try_finish = task(finish_with_limits), task(try_finish_with_limits)
    end = _attempt(work, "finish", lambda: finish.remote(work, segmented))
    if not isinstance(end, _Death):
        return
    blocks = []
    for piece in segmented.pieces():
        (block,), (result,) = piece.unit.blocks, piece.blocks
        alone = result_or_failure(work, block, "finish", partial(try_finish.remote, work, piece))
        blocks.append(alone if isinstance(alone, Failure) else result)
    left = replace(segmented, blocks=tuple(blocks))
    end = _attempt(work, "finish", lambda: finish.remote(work, left))
    if isinstance(end, _Death):
        url = segmented.unit.blocks[0].scene.url
        raise UnfinishedError(
            f"{url}: the process that makes its unit's file {end.what}; the same command resumes"
            " the run"
        )


def result_or_failure(work: Work, block: Block, stage: str, start: Callable[[], Any]) -> Any:
    """The result of the work that `start` gives to Ray, or the Failure of its block.

    Raises TransientError and UnfinishedError for what is not the block's fault.
    """
    result = _attempt(work, stage, start)
    if isinstance(result, _Death) and result.error != "timeout":
        result = _attempt(work, stage, start)  # its node may have been at fault, or its neighbor
    if not isinstance(result, _Death):
        return result
    return work.failure(block, stage, result.error, result.what)


@dataclass(frozen=True)
class _Death:
    """Why a process gave no result."""

    error: str
    """crashed, timeout or memory."""
    what: str
    """The same as the predicate of a sentence."""


def _attempt(work: Work, stage: str, start: Callable[[], Any]) -> Any:
    """The result, or the _Death of the process. Raises errors of ours: they are no single input's
    fault."""
    started = time.monotonic()
    try:
        ref = start()  # may load a replica first, and may find no room for its arguments
        started = time.monotonic()
        return ray.get(ref, timeout=work.unit_timeout_s + _GRACE_S)
    except GetTimeoutError as error:  # its own limit ends what hangs: this never had its turn
        raise TransientError(f"{stage}: Ray found no room for it in time") from error
    except OutOfMemoryError:
        return _Death("memory", "took more memory than there is")
    except (WorkerCrashedError, RayActorError):
        if time.monotonic() - started >= work.unit_timeout_s:  # killed by its own limit
            return _Death("timeout", f"took more than {work.unit_timeout_s:.0f} s")
        return _Death("crashed", "ended its process each time")
    except RayTaskError as error:
        return _death_of_task(stage, error)
    except RayError as error:  # a node, or room for its result: OutOfDiskError, ObjectLostError ...
        raise TransientError(
            f"{stage}: lost with {type(error).__name__}; check the disk and memory of Ray's nodes"
        ) from error


def _death_of_task(stage: str, error: RayTaskError) -> _Death:
    """A lack of memory. Raises anything else that a task has raised."""
    cause = error.cause
    if isinstance(cause, SwathError):
        raise cause from error
    if isinstance(cause, MemoryError):
        return _Death("memory", f"took more memory than it may: {one_line(cause)}")
    # Whatever is wrong with pixels is in their Failure; an exception is the device's.
    raise UnfinishedError(
        f"{stage} fails with {root_cause(error)}; the same command resumes the run"
    ) from error


class IsolatedReplica:
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
        """Load a replica, a second time if the first one dies. Raises what loading raises, and
        UnfinishedError."""
        actor_class = ray.remote(
            num_gpus=self._work.budget.machine.gpus_per_replica,
            max_restarts=0,
            memory=self._work.need.replica_bytes,
        )(IsolatedReplicaActor)
        for _ in range(2):
            self.close()
            self._actor = actor_class.remote()
            result = _attempt(
                replace(self._work, unit_timeout_s=_LOADING_S),
                "load",
                lambda: self._actor.load.remote(self._work),
            )
            if not isinstance(result, _Death):
                return
        raise UnfinishedError(
            f"{self._work.job.checkpoint}: a replica that loads it {result.what}; the same command"
            " resumes the run"
        )

    def _answers(self) -> bool:
        try:
            ray.get(self._actor.__ray_ready__.remote(), timeout=_ANSWER_S)
        except RayError:
            return False
        return True


class IsolatedReplicaActor:
    """A SegmentStage that a call loads: Ray keeps only the text of what `__init__` raises."""

    def load(self, work: Work) -> None:
        self._stage = SegmentStage(work)

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        return self._stage.segment(read)

"""The plain loop over the stages, for one process: it reads the checkpoint, then computes units.

`local.py` runs it in the driver's own process, `loop_process.py` in one that may die. Everything
that needs torch is imported when it is first used: the process that only asks does not load it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.checkpoint import absolute_checkpoint, call_on_checkpoint, pinned_checkpoint
from pipeline.driver.laps import CHECKPOINT, Laps
from pipeline.errors import one_line
from pipeline.failure import Failure
from pipeline.job import Job
from pipeline.model import Model
from pipeline.processes.hidden_modules import hidden_modules
from pipeline.processes.limits import memory_limit, rearm
from pipeline.processes.sandbox import Limits, run_in_sandbox
from pipeline.processes.worker import Returned, raised
from pipeline.processes.worker_process import Outcome
from pipeline.settings import Settings
from pipeline.storage.access import Access
from pipeline.storage.retry import retries_so_far
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Unit
from pipeline.verdict import insist, insist_unless_short

if TYPE_CHECKING:
    from pipeline.engine.replica import Replica
    from pipeline.stages import Work
    from segformer import Checkpoint

T = TypeVar("T")


class PlainLoop:
    """A checkpoint, and one replica of it as soon as units are computed."""

    def __init__(self, checkpoint: str, settings: Settings, access: Access) -> None:
        self.checkpoint = checkpoint
        """Its path or URL, or its name on the Hub."""
        self.settings = settings
        """The job's: they say how the checkpoint is read, see `Settings.reading`."""
        self.access = access
        self.laps = Laps()
        """Where the time before the first unit goes."""
        self._read: Checkpoint | None = None
        """The checkpoint, from when it is read until the replica is loaded."""
        self._replica: Replica | None = None

    def model(self, recorded: Job | None) -> Model:
        """The facts about the checkpoint, which is read, and about this machine's devices.

        recorded: the job to be continued, see `pinned_checkpoint`. Raises CheckpointError if the
        checkpoint is unusable, UsageError if its store refuses access, TransientError if it does
        not answer.
        """
        with self.laps.time(CHECKPOINT):
            from pipeline.engine.device import local_devices  # noqa: PLC0415
            from segformer import read_checkpoint  # noqa: PLC0415
            from segformer.folding import folded_bytes  # noqa: PLC0415

            pinned = pinned_checkpoint(self.checkpoint, recorded, self.access)
            checkpoint = call_on_checkpoint(
                read_checkpoint, pinned, self.access, **self.settings.reading
            )
        self._read = checkpoint
        config = checkpoint.config
        return Model(
            absolute_checkpoint(pinned, self.access),
            config,
            checkpoint.normalisation.expected,
            checkpoint.sha256,
            folded_bytes(config),
            *local_devices(),
        )

    @property
    def is_ready(self) -> bool:
        """Whether `model` answers at once."""
        return True

    def stated_channels(self) -> int | None:
        """The number of the network's input channels if that is known before the checkpoint is
        read; here it is not: headers are read afterwards."""
        return None

    def run_items(
        self, function: Callable[[Any], Any], items: Sequence[Any], limits: Limits
    ) -> Generator[tuple[int, Outcome[Any]], None, None]:
        """See `run_in_sandbox`."""
        return run_in_sandbox(function, items, limits)

    def try_items(
        self, function: Callable[[Any], Any], items: Sequence[Any], limits: Limits
    ) -> list[Outcome[Any]]:
        """The outcomes of a few items, computed in this process at the same time. For a process of
        its own. Raises MemoryError if they allocate more than `limits.memory_bytes`."""
        _spare_imports()
        with memory_limit(limits.memory_bytes), ThreadPoolExecutor(limits.threads) as pool:
            return list(pool.map(partial(_outcome, function), items))

    def load(self, work: Work) -> None:
        """Load the replica, unless it is there. Raises UnfinishedError if it cannot be loaded."""
        from pipeline.engine.replica import Replica  # noqa: PLC0415

        if self._replica is None:
            # The bytes that were read are those of the job, wherever they have moved since.
            read, self._read = self._read, None
            self._replica = insist(
                f"{work.job.checkpoint}: no replica could be loaded",
                partial(Replica, work.job, work.access, work.sharing, read),
            )

    def import_ahead(self) -> None:
        """Import what computing needs, while nothing else is asked of this process. For a process
        of its own."""
        _spare_imports()
        import pipeline.engine.replica  # noqa: PLC0415
        import pipeline.stages  # noqa: PLC0415, F401

    def close(self) -> None:
        """Let go of the weights."""
        self._read = self._replica = None

    def compute(self, work: Work, unit: Unit) -> int:
        """Give the unit an outcome. Returns how often writing it was retried.

        Raises TransientError if a store does not answer, UnfinishedError if no replica can be
        loaded.
        """
        self.load(work)
        assert self._replica is not None
        rearm()
        read = _read(work, unit)
        rearm()
        segmented = replace(_segment(work, self._replica, read), brightness=read.brightness)
        rearm()
        before = retries_so_far()
        _finish(work, segmented)
        return retries_so_far() - before


def _spare_imports() -> None:
    """Let the libraries of the stages load without what they look for and nobody needs here."""
    with hidden_modules("boto3", "pandas"):
        import pipeline.imagery.gdal  # noqa: PLC0415, F401  rasterio looks for boto3
        from pipeline.output.parquet import look_for_pandas  # noqa: PLC0415

        look_for_pandas()


def _outcome(function: Callable[[Any], Any], item: Any) -> Outcome[Any]:
    try:
        return Returned(function(item))
    except MemoryError:
        raise
    except BaseException as error:  # noqa: BLE001  as in the sandbox, the caller judges
        return raised(error)


def _read(work: Work, unit: Unit) -> ReadUnit:
    """The unit's pixels; read block by block if memory is too short for all of them together."""
    try:
        return _read_within_limit(work, unit)
    except MemoryError:
        pass
    blocks: list[Pixels | Failure] = []
    read_s, retries = 0.0, 0
    for block in unit.blocks:
        piece = Unit(unit.shard, (block,))
        read = _alone(work, block, "read", partial(_read_within_limit, work, piece))
        if isinstance(read, Failure):
            blocks.append(read)
            continue
        blocks += read.blocks
        read_s += read.read_s
        retries += read.retries
    return ReadUnit(unit, tuple(blocks), read_s, retries, work.brightness(unit, blocks))


def _read_within_limit(work: Work, unit: Unit) -> ReadUnit:
    with memory_limit(work.need.reading_limit_bytes):
        return work.read(unit)


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


def _finish(work: Work, segmented: SegmentedUnit) -> None:
    """Write the unit's file; without the blocks for which memory is too short even alone."""
    from pipeline.stages import finish_unit  # noqa: PLC0415

    what = f"{segmented.unit.blocks[0].scene.url}: its unit's file cannot be made"
    try:
        return insist_unless_short(what, partial(work.finish, segmented))
    except MemoryError:
        pass
    blocks = []
    for piece in segmented.pieces():
        (block,), (result,) = piece.unit.blocks, piece.blocks
        alone = _alone(work, block, "finish", partial(finish_unit, piece))
        blocks.append(alone if isinstance(alone, Failure) else result)
    return insist(what, partial(work.finish, replace(segmented, blocks=tuple(blocks))))


def _alone(work: Work, block: Block, stage: str, do: Callable[[], T]) -> T | Failure:
    """The result of work on one block, or its Failure if memory is too short even for it alone."""
    try:
        return do()
    except MemoryError as error:
        what = f"took more memory than it may: {one_line(error)}"
        return work.failure(block, stage, "memory", what)

"""Read, segment, finish and publish, as every runner calls them.

Inputs are judged here, by `pipeline.verdict`: what is wrong with one block becomes its Failure, and
the others continue. Transient errors, and errors that would stop every unit, are raised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pipeline.errors import InputError
from pipeline.failure import Failure
from pipeline.grid import WindowGrid
from pipeline.imagery.brightness import value_range
from pipeline.imagery.source import source_of
from pipeline.job import Job
from pipeline.output.layout import Output, write_unit
from pipeline.output.publishing import Publication, publish
from pipeline.output.shard import Shard
from pipeline.output.unit_file import unit_file
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.scene import IDENTITY, Rect, Scene
from pipeline.storage.access import Access
from pipeline.storage.errors import storage_errors
from pipeline.storage.retry import retries_so_far
from pipeline.storage.schemes import open_store
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Unit, ValueRange, failure_of
from pipeline.verdict import Foreign, attempt, insist, try_block

Segment = Callable[[ReadUnit], SegmentedUnit]
"""A replica's method."""


@dataclass(frozen=True)
class PublishedShard:
    """A shard, and what publishing it took."""

    shard_id: str
    seconds: float
    retries: int
    failures: tuple[Failure, ...] = ()
    """The blocks of scenes whose rows could not be made."""


@dataclass(frozen=True)
class UnpublishedShard:
    """A shard that has to wait until units of it are computed again."""

    shard_id: str
    damages: Mapping[str, str]
    """unit_id -> what is wrong with the unit's file."""
    retries: int


ShardResult = PublishedShard | UnpublishedShard
"""What publishing a shard ended with."""


@dataclass(frozen=True)
class Segmentation:
    """What any process needs to read and segment units: small and picklable. Knows no output."""

    job: Job
    access: Access
    budget: MemoryBudget
    unit_timeout_s: float

    @property
    def replicas(self) -> int:
        return self.budget.machine.replicas

    @property
    def sharing(self) -> int:
        """Replicas on one GPU."""
        return self.budget.machine.sharing

    @property
    def need(self) -> MemoryNeed:
        """Memory needed for the largest unit."""
        return self.budget.need

    def read(self, unit: Unit) -> ReadUnit:
        """The pixels of every block that can be read.

        Raises TransientError if a store does not answer, UnfinishedError if it refuses us,
        MemoryError.
        """
        started, tries = time.perf_counter(), retries_so_far()
        blocks = tuple(
            try_block(block, "read", partial(self._pixels, block)) for block in unit.blocks
        )
        brightness = self.brightness(unit, blocks)
        seconds, retries = time.perf_counter() - started, retries_so_far() - tries
        return ReadUnit(unit, blocks, seconds, retries, brightness)

    def segment(self, segment: Segment, read: ReadUnit) -> SegmentedUnit:
        """The class ids of every block that has pixels. Blocks that make the replica's `segment`
        raise fail, but only if the replica can segment a blank block right after.

        Raises what `segment` raises of ours, MemoryError, and UnfinishedError if it raises whatever
        the pixels.
        """
        segmented = attempt(partial(segment, read))
        if isinstance(segmented, SegmentedUnit):
            return segmented
        if len(read.blocks) > 1:
            pieces = [self.segment(segment, piece) for piece in read.pieces()]
            return replace(
                SegmentedUnit.joined(read.unit, pieces), read_s=read.read_s, retries=read.retries
            )
        (block,) = read.unit.blocks
        insist(
            f"{self.job.checkpoint}: the replica can segment nothing any more",
            partial(segment, _blank(block.scene, self.job.settings.window)),
        )
        failed = SegmentedUnit.failed(read.unit, segmented.failure(block, "segment"))
        return replace(failed, read_s=read.read_s, retries=read.retries)

    def failure(self, block: Block, stage: str, error: str, what: str) -> Failure:
        """The failure of a block that killed its process, hung or took all memory, named `error`;
        or that its input is not the one that was planned. Raises TransientError if its store does
        not answer."""
        try:
            source_of(block.scene).check_unchanged(block.scene, self.access)
        except InputError as other:
            return failure_of(other, block)
        url = block.scene.url
        message = f"{url}: to {stage} window {block.core} {what}; replace the file or leave it out"
        return failure_of(InputError(message, url=url, stage=stage), block, error)

    def _pixels(self, block: Block) -> Pixels:
        scene, settings = block.scene, self.job.settings
        source = source_of(scene)
        grid = WindowGrid.over(scene, settings)
        try:
            pixels = source.read(scene, grid.read_rect(block.core), self.access)
        except InputError:
            source.check_unchanged(scene, self.access)  # a file that has changed is not damaged
            raise
        # After the reading: the bytes might have changed meanwhile.
        source.check_unchanged(scene, self.access)
        return pixels

    def brightness(self, unit: Unit, blocks: Sequence[Pixels | Failure]) -> ValueRange | None:
        """The range of the pixels of a unit's blocks that --scale is for; None: there are none."""
        settings = self.job.settings
        if settings.scale is None:
            return None
        pairs = zip(unit.blocks, blocks, strict=True)
        scaled = [p for b, p in pairs if isinstance(p, Pixels) and b.scene.values_dtype != "uint8"]
        if isinstance(settings.scale, str):  # applied when reading
            return value_range(scaled, 1.0, 0.0)
        return value_range(scaled, settings.scale, settings.offset or 0.0)


@dataclass(frozen=True)
class Work(Segmentation):
    """A segmentation whose units are written to an output, until the time is up."""

    output: str
    """The output's URL, without credentials."""
    until: float = math.inf
    """When no more units are started, in seconds since 1970: the clock that all machines share."""

    @property
    def out_of_time(self) -> bool:
        return time.time() >= self.until

    @property
    def out(self) -> Output:
        return Output(open_store(self.output, self.access), self.job)

    def finish(self, segmented: SegmentedUnit) -> None:
        """Write the unit's file: from here on the unit has an outcome. Blocks whose rows cannot be
        made fail.

        Raises TransientError, UnfinishedError and UsageError, as the output's store does,
        UnfinishedError if no block's rows can be made, and MemoryError.
        """
        finished, data = finish_unit(segmented)
        failed = any(isinstance(block, Failure) for block in finished.blocks)
        with storage_errors(self.output):  # a full disk is no unit's fault
            write_unit(self.out.store, finished.unit, data, failed=failed)

    def publish(self, shard: Shard) -> ShardResult:
        """See `pipeline.output.publishing`. Raises TransientError if a store does not answer,
        UnfinishedError and UsageError if it fails or refuses us."""
        started, tries = time.perf_counter(), retries_so_far()

        def publish_shard() -> Publication:
            with storage_errors(self.output):
                return publish(self.out, shard)

        what = f"{self.output}: shard {shard.shard_id} cannot be published"
        publication = insist(what, publish_shard)
        seconds, retries = time.perf_counter() - started, retries_so_far() - tries
        if publication.damages:
            return UnpublishedShard(shard.shard_id, publication.damages, retries)
        return PublishedShard(shard.shard_id, seconds, retries, publication.failures)


def _blank(scene: Scene, edge_px: int) -> ReadUnit:
    """A unit of one window of zeros, which nothing can be wrong with, with as many bands as the
    scene."""
    rect = Rect(0, 0, edge_px, edge_px)
    blank = Scene(
        scene_id="blank",
        url="blank",
        version="",
        sidecars=(),
        width=edge_px,
        height=edge_px,
        bands=scene.bands,
        dtype="uint8",
        nodata=None,
        crs=None,
        transform=IDENTITY,
        datetime=None,
        striped=False,
    )
    values_CHW = np.zeros((len(scene.bands), edge_px, edge_px), np.uint8)
    pixels = Pixels(values_CHW, np.ones((edge_px, edge_px), bool), rect)
    return ReadUnit(Unit("blank", (Block(blank, rect),)), (pixels,), read_s=0.0)


def finish_unit(segmented: SegmentedUnit) -> tuple[SegmentedUnit, bytes]:
    """The unit's file, and the unit as it is there: blocks that make `unit_file` raise when they
    are alone have failed."""
    data = attempt(partial(unit_file, segmented))
    if isinstance(data, bytes):
        return segmented, data
    blocks = []
    for piece in segmented.pieces():
        (block,), (result,) = piece.unit.blocks, piece.blocks
        alone = attempt(partial(unit_file, piece))
        blocks.append(alone.failure(block, "finish") if isinstance(alone, Foreign) else result)
    finished = replace(segmented, blocks=tuple(blocks))
    what = f"{segmented.unit.blocks[0].scene.url}: the rows of its unit cannot be made"
    return finished, insist(what, partial(unit_file, finished))

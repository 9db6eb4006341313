"""Read, finish and publish, as every runner calls them; segmenting is the replica's method.

Inputs are judged here: what is wrong with one block becomes its Failure, and the others continue.
Transient errors, and errors that would stop every unit, are raised.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from pipeline.errors import InputError, SwathError, one_line
from pipeline.failure import Failure
from pipeline.grid import WindowGrid
from pipeline.imagery.brightness import value_range
from pipeline.imagery.source import source_of
from pipeline.job import Job
from pipeline.output.layout import Output, write_unit
from pipeline.output.publishing import publish
from pipeline.output.shard import Shard
from pipeline.output.unit_file import unit_file
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.storage.access import Access
from pipeline.storage.errors import storage_errors
from pipeline.storage.retry import retries_so_far
from pipeline.storage.schemes import open_store
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Unit, ValueRange, failure_of

T = TypeVar("T")


@dataclass(frozen=True)
class PublishedShard:
    """A shard, and what publishing it took."""

    shard_id: str
    seconds: float
    retries: int


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
        brightness = self._brightness(unit, blocks)
        seconds, retries = time.perf_counter() - started, retries_so_far() - tries
        return ReadUnit(unit, blocks, seconds, retries, brightness)

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

    def _brightness(self, unit: Unit, blocks: Sequence[Pixels | Failure]) -> ValueRange | None:
        """The range of the pixels that --scale is for."""
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
        """Write the unit's file: from here on the unit has an outcome."""
        data = unit_file(segmented)
        failed = any(isinstance(block, Failure) for block in segmented.blocks)
        with storage_errors(self.output):  # a full disk is no unit's fault
            write_unit(self.out.store, segmented.unit, data, failed=failed)

    def publish(self, shard: Shard) -> PublishedShard:
        """See `pipeline.output.publishing`. Raises TransientError if a store does not answer,
        UnfinishedError and UsageError if it fails or refuses us."""
        started, tries = time.perf_counter(), retries_so_far()
        with storage_errors(self.output):
            publish(self.out, shard)
        seconds, retries = time.perf_counter() - started, retries_so_far() - tries
        return PublishedShard(shard.shard_id, seconds, retries)


def try_block(block: Block, stage: str, work: Callable[[], T]) -> T | Failure:
    """The work's result, or the block's Failure if its input is at fault: the one place where any
    error of a library is caught. A shortage of memory may be another unit's doing: it is raised,
    and the unit is retried in isolation."""
    try:
        return work()
    except InputError as error:
        return failure_of(error, block)
    except (SwathError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001
        url = block.scene.url
        input_error = InputError(
            f"{url}: window {block.core}: {stage} failed with {type(error).__name__}:"
            f" {one_line(error)}; replace the file or leave it out",
            url=url,
            stage=stage,
        )
        input_error.__cause__ = error
        return failure_of(input_error, block)

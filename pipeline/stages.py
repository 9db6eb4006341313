"""Read, finish and publish, as every runner calls them; segment is the replica's method.

The verdict on an input is made here: what is wrong with one block becomes its Failure and the
others go on. What may pass, and what would stop every unit, is raised.
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
from pipeline.unit import Block, Pixels, ValueRange, ReadUnit, SegmentedUnit, Unit, failure_of

T = TypeVar("T")


@dataclass(frozen=True)
class PublishedShard:
    """A shard, and what that took."""

    shard_id: str
    seconds: float
    retries: int


@dataclass(frozen=True)
class Work:
    """What a worker in any process needs to know: small and picklable."""

    output: str
    access: Access
    job: Job
    budget: MemoryBudget
    """Of the memory."""
    unit_timeout_s: float
    until: float = math.inf
    """When no more units are begun: seconds since 1970, for clocks of several machines."""

    @property
    def out_of_time(self) -> bool:
        return time.time() >= self.until

    @property
    def replicas(self) -> int:
        return self.budget.machine.replicas

    @property
    def sharing(self) -> int:
        """Replicas on one GPU."""
        return self.budget.machine.sharing

    @property
    def need(self) -> MemoryNeed:
        """Of the largest unit."""
        return self.budget.need

    @property
    def out(self) -> Output:
        return Output(open_store(self.output, self.access), self.job)

    def read(self, unit: Unit) -> ReadUnit:
        """The pixels of every block that can be read.

        Raises TransientError where a store does not answer, UnfinishedError where it refuses us,
        MemoryError.
        """
        started, tries = time.perf_counter(), retries_so_far()
        blocks = tuple(result_or_failure(block, "read", partial(self._pixels, block)) for block in unit.blocks)
        bright = self._brightness(unit, blocks)
        return ReadUnit(
            unit, blocks, time.perf_counter() - started, retries_so_far() - tries, bright
        )

    def finish(self, segmented: SegmentedUnit) -> None:
        """Writes the unit's file: from here on the unit has an outcome."""
        data = unit_file(segmented)
        failed = any(isinstance(block, Failure) for block in segmented.blocks)
        with storage_errors(self.output):  # a full disk is no unit's fault
            write_unit(self.out.store, segmented.unit, data, failed=failed)

    def publish(self, shard: Shard) -> PublishedShard:
        """See `pipeline.output.publishing`. Raises TransientError where a store does not answer,
        UnfinishedError and UsageError where it fails or refuses us."""
        started, tries = time.perf_counter(), retries_so_far()
        with storage_errors(self.output):
            publish(self.out, shard)
        return PublishedShard(shard.shard_id, time.perf_counter() - started, retries_so_far() - tries)

    def failed(self, block: Block, stage: str, error: str, what: str) -> Failure:
        """Of a block that ended its process, hung or took all memory: named `error`, if the file is
        the one that was planned. Raises TransientError where its store does not answer."""
        try:
            source_of(block.scene).check_unchanged(block.scene, self.access)
        except InputError as other:
            return failure_of(other, block)
        url = block.scene.url
        message = f"{url}: to {stage} window {block.core} {what}; replace the file or leave it out"
        return failure_of(InputError(message, url=url, stage=stage), block, error)

    def _brightness(self, unit: Unit, blocks: Sequence[Pixels | Failure]) -> ValueRange | None:
        settings = self.job.settings
        if settings.scale is None:
            return None
        both = zip(unit.blocks, blocks, strict=True)
        scaled = [p for b, p in both if isinstance(p, Pixels) and b.scene.dtype != "uint8"]
        return value_range(scaled, settings.scale, settings.offset or 0.0)

    def _pixels(self, block: Block) -> Pixels:
        scene, settings = block.scene, self.job.settings
        source = source_of(scene)
        grid = WindowGrid.of(scene.width, scene.height, settings.window, settings.stride)
        try:
            pixels = source.read(scene, grid.read_rect(block.core), self.access)
        except InputError:
            source.check_unchanged(scene, self.access)  # a file that has changed is not damaged
            raise
        # After the reading: the bytes might have changed meanwhile.
        source.check_unchanged(scene, self.access)
        return pixels


def result_or_failure(block: Block, stage: str, work: Callable[[], T]) -> T | Failure:
    """The work's result, or the block's Failure where its input is at fault: the one place where
    any error of a library is caught. A lack of memory may be another unit's doing: it is raised,
    and the unit is tried again, alone."""
    try:
        return work()
    except InputError as error:
        return failure_of(error, block)
    except (SwathError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001
        where = f"{block.scene.url}: window {block.core}"
        what = one_line(error)
        found = InputError(
            f"{where}: {stage} failed with {type(error).__name__}: {what}; replace the file or"
            " leave it out",
            url=block.scene.url,
            stage=stage,
        )
        found.__cause__ = error
        return failure_of(found, block)

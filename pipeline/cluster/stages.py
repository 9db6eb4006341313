"""The stages as Ray Data runs them. A row is a unit, and a Ray block is one row.

Each stage limits its time: what hangs ends its own process, and `pipeline.cluster.flow` deals with
that.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.data import Datasource, ReadTask
from ray.data.block import Block as RayBlock
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, WriteResult

from pipeline.cluster.packing import Row, pack, unpack
from pipeline.cluster.passed_error import passing_errors
from pipeline.cluster.publishers import Publish, publish_shard
from pipeline.cluster.replica_actor import SegmentStage
from pipeline.processes.limits import process_limits
from pipeline.stages import Work, finish_unit
from pipeline.storage.retry import retries_so_far
from pipeline.unit import ReadUnit, SegmentedUnit, Unit


class UnitSource(Datasource):
    """The units of the plan and nothing else: pixels are read by the next stage."""

    def __init__(self, units: Sequence[Unit]) -> None:
        super().__init__()
        self._units = list(units)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        del per_task_row_limit, data_context
        tasks = []
        for index in range(parallelism):
            units = self._units[index::parallelism]
            if units:
                rows = [pickle.dumps(unit) for unit in units]
                metadata = BlockMetadata(
                    num_rows=len(rows),
                    size_bytes=sum(map(len, rows)),
                    input_files=None,
                    exec_stats=None,
                )
                tasks.append(ReadTask(functools.partial(_unit_blocks, rows), metadata))
        return tasks


def _unit_blocks(rows: list[bytes]) -> Iterable[RayBlock]:
    for row in rows:
        yield BlockAccessor.batch_to_block({"unit": np.array([row], dtype=object)})


class ReadStage:
    """Reads the pixels of units; when the time is up, it reads nothing any more."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: Row) -> list[Row]:
        if self._work.out_of_time:
            return []
        with passing_errors():
            return [pack(self.read(pickle.loads(row["unit"])))]

    def read(self, unit: Unit) -> ReadUnit:
        return read_with_limits(self._work, unit)


def read_with_limits(work: Work, unit: Unit) -> ReadUnit:
    """Raises MemoryError if the unit takes far more memory than predicted."""
    with process_limits(work.unit_timeout_s, work.need.reading_limit_bytes):
        return work.read(unit)


def finish_with_limits(work: Work, segmented: SegmentedUnit) -> None:
    """See `Work.finish`."""
    with process_limits(work.unit_timeout_s):
        work.finish(segmented)


def try_finish_with_limits(work: Work, segmented: SegmentedUnit) -> None:
    """Make the unit's file, and write nothing."""
    with process_limits(work.unit_timeout_s):
        finish_unit(segmented)


class UnitSink(Datasink[int]):
    """One file per unit, whole or not at all; Ray's own sink leaves broken files when killed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.retries = 0
        """Retries of all writes, known when all have finished. A unit's file cannot count those of
        its own writing."""

    def write(self, blocks: Iterable[RayBlock], ctx: Any) -> int:
        del ctx
        before = retries_so_far()
        for block in blocks:
            if not BlockAccessor.for_block(block).num_rows():
                continue  # the time was up before this unit's turn
            batch = BlockAccessor.for_block(block).to_numpy(["head", "data"])
            for head, data in zip(batch["head"], batch["data"], strict=True):
                with passing_errors():
                    self.finish(unpack(head, data))
        return retries_so_far() - before

    def finish(self, segmented: SegmentedUnit) -> None:
        finish_with_limits(self._work, segmented)

    def on_write_complete(self, write_result: WriteResult[int]) -> None:
        self.retries = int(sum(write_result.write_returns))


@dataclass(frozen=True)
class Stages:
    """What a flow is made of; benchmarks replace some of it. Each class is constructed with a
    Work."""

    read: type[ReadStage] = ReadStage
    segment: type[SegmentStage] = SegmentStage
    sink: type[UnitSink] = UnitSink
    publish: Publish = publish_shard


STAGES = Stages()
"""The stages of `swath run`."""

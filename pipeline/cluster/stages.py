"""The stages as Ray Data runs them. A row is a unit, and a Ray block is one row.

Each stage is guarded: what hangs ends its process, and `pipeline.cluster.flow` sees to the rest.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import Block as RayBlock
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink, WriteResult
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from pipeline.cluster.metrics import GpuMemory
from pipeline.cluster.packing import Row, pack, unpack
from pipeline.errors import LOG, SwathError, TransientError, UnfinishedError
from pipeline.processes.limits import guarded
from pipeline.stages import Work
from pipeline.storage.retry import tried_again
from pipeline.unit import ReadUnit, SegmentedUnit, Unit

UNITS_PER_READ_TASK = 64
LOADING_DEATHS = 3
"""In a row, of a replica that is loading, before the run is given up."""
_SPARE_BYTES = 1 << 30
"""A reader may take twice what is predicted for its unit, and this."""


class UnitSource(Datasource):
    """Rows of the plan and nothing else: pixels are read by the next stage."""

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
            share = self._units[index::parallelism]
            if share:
                rows = [pickle.dumps(unit) for unit in share]
                metadata = BlockMetadata(
                    num_rows=len(rows),
                    size_bytes=sum(map(len, rows)),
                    input_files=None,
                    exec_stats=None,
                )
                tasks.append(ReadTask(functools.partial(_plan_rows, rows), metadata))
        return tasks


def _plan_rows(rows: list[bytes]) -> Iterable[RayBlock]:
    for row in rows:
        yield BlockAccessor.batch_to_block({"unit": np.array([row], dtype=object)})


def read_guarded(work: Work, unit: Unit) -> ReadUnit:
    """Raises MemoryError where the unit takes far more than was predicted."""
    with guarded(work.unit_timeout_s, 2 * work.need.reader_bytes + _SPARE_BYTES):
        return work.read(unit)


class ReadStage:
    """Nothing is read any more when the time is up."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: Row) -> list[Row]:
        if self._work.out_of_time:
            return []
        return [pack(read_guarded(self._work, pickle.loads(row["unit"])))]


class SegmentStage:
    """A replica in an actor. What waits for it when the time is up gets no outcome."""

    def __init__(self, work: Work) -> None:
        self._counted = tried_again()
        self._work = work
        self._gpu_memory = GpuMemory(work.output)
        self._refused: SwathError | None = None
        """Ray would keep no more than the text of an error raised here: it is raised by calls."""
        try:
            with _loading(work.job.checkpoint):
                from pipeline.engine.replica import Replica  # noqa: PLC0415  readers need not load torch

                self._replica = Replica(work.job, work.access, work.sharing)
                self._replica.warm_up()
        except TransientError:
            raise  # another one may have more luck
        except SwathError as error:
            self._refused = error

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if self._work.out_of_time:
            return
        row = pack(self.segment(unpack(batch["head"][0], batch["data"][0])))
        yield {"head": np.array([row["head"]], dtype=object), "data": row["data"][None]}

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        if self._refused:
            raise self._refused
        with guarded(self._work.unit_timeout_s), _ending_with(self._work.job.device):
            segmented = self._replica.segment(read)
        self._gpu_memory(segmented.gpu)
        before, self._counted = self._counted, tried_again()  # the first unit's: of loading, too
        retries = segmented.retries + self._counted - before
        return replace(segmented, retries=retries, brightness=read.brightness)


@contextmanager
def _ending_with(device: str) -> Iterator[None]:
    """Within it, an error of a GPU ends the process: after some kinds of them all that follows
    fails, and this actor would fail all units. Ray starts another one."""
    try:
        yield
    except RuntimeError as error:
        if device != "cuda":
            raise
        why = " ".join(str(error).split())
        LOG.warning("a GPU has failed, and its replica is started anew: %s", why)
        os._exit(1)


@contextmanager
def _loading(checkpoint: str) -> Iterator[None]:
    """Within it, this actor's deaths count; Ray starts it again for ever, and so would a run hang.

    Raises UnfinishedError where it has died here LOADING_DEATHS times in a row.
    """
    # Kept by Ray's head, for this process remembers nothing of those before it.
    key = f"swath-loading-{ray.get_runtime_context().get_actor_id()}".encode()
    deaths = int(_internal_kv_get(key) or 0)
    if deaths == LOADING_DEATHS:
        raise UnfinishedError(
            f"{checkpoint}: no replica could be loaded, its process was ended {deaths} times in a"
            " row; has the machine memory left? The same command goes on from here"
        )
    _internal_kv_put(key, str(deaths + 1).encode(), overwrite=True)
    yield
    _internal_kv_del(key)


class UnitSink(Datasink[int]):
    """One file per unit, whole or not at all; Ray's own sink leaves broken files when killed."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.retries = 0
        """Of all writes, when all have ended. A unit's file cannot tell of its own writing."""

    def write(self, blocks: Iterable[RayBlock], ctx: Any) -> int:
        del ctx
        before = tried_again()
        for block in blocks:
            if not BlockAccessor.for_block(block).num_rows():
                continue  # of a unit whose turn came too late
            batch = BlockAccessor.for_block(block).to_numpy(["head", "data"])
            for head, data in zip(batch["head"], batch["data"], strict=True):
                with guarded(self._work.unit_timeout_s):
                    self._work.finish(unpack(head, data))
        return tried_again() - before

    def on_write_complete(self, write_result: WriteResult[int]) -> None:
        self.retries = int(sum(write_result.write_returns))

"""The stages on Ray Data: a source of units, read tasks, a pool of replicas, a sink of unit files.

A row is a unit, and a Ray block is one row. Between the stages a row is packed: arrays side by side
in one byte tensor, which Ray hands over without copying. Knows Ray, and of the stages only `Work`.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import Block as RayBlock
from ray.data.block import BlockAccessor, BlockMetadata
from ray.data.datasource import Datasink

from pipeline.errors import UnfinishedError, UsageError
from pipeline.scene import Unit
from pipeline.settings import Execution
from pipeline.stages import Work

POLL_S = 1.0
KNOCK_S = 5.0
IO_CPUS = 2
"""Ray CPUs beyond those of the replicas, so that reads and writes never wait for an actor."""
TASK_CPUS = 0.5
"""Of a read or a write: they mostly wait. Differs from the replicas', else Ray fuses the stages."""
_UNITS_PER_READ_TASK = 64
_ALIGNMENT = 64

Row = dict[str, Any]


def run_units(
    work: Work, units: Sequence[Unit], execution: Execution, poll: Callable[[], None]
) -> None:
    """Computes the units on a Ray cluster and calls `poll` about once a second.

    Raises UnfinishedError where Ray gives up.
    """
    cpus = None if execution.address else work.replicas + IO_CPUS
    with _connected(execution.address or "local", cpus):
        failures: list[Exception] = []
        writer = threading.Thread(target=_write, args=(work, units, failures), daemon=True)
        writer.start()
        try:
            while writer.is_alive():
                writer.join(POLL_S)
                poll()
        except BaseException:
            # Ray Data's thread is about to lose its cluster and would log that as an error.
            logging.disable(logging.CRITICAL)
            raise
        if failures:
            cause = str(failures[0]).strip().splitlines()
            raise UnfinishedError(
                f"Ray stopped before every unit was done ({cause[-1] if cause else failures[0]!r});"
                " the same command goes on from here"
            ) from failures[0]


def devices_of(address: str) -> tuple[str, int]:
    """The kind of device that a cluster's replicas use, and how many of them there are."""
    with _connected(address, num_cpus=None):
        resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    return ("cuda", gpus) if gpus else ("cpu", max(1, int(resources.get("CPU", 1)) - IO_CPUS))


@contextmanager
def _connected(address: str, num_cpus: int | None) -> Iterator[None]:
    if address == "local":
        # Ray's core writes "errors" to our stderr where nothing is wrong (ray#53727).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        _knock(address)
        ray.init(
            address=address,
            num_cpus=num_cpus,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(
            f"--address {address}: no Ray cluster answers there ({error}); start one with"
            " `ray start --head`, or leave --address out to use this machine"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError at once where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].partition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_S).close()


def _write(work: Work, units: Sequence[Unit], failures: list[Exception]) -> None:
    try:
        _dataset(work, units).write_datasink(UnitSink(work))
    except Exception as error:  # noqa: BLE001 - handed to the thread that waits
        failures.append(error)


def _dataset(work: Work, units: Sequence[Unit]) -> ray.data.Dataset:
    context = DataContext.get_current()
    context.target_max_block_size = 1  # one row per Ray block
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    on_gpu = work.job.device == "cuda"
    source = ray.data.read_datasource(
        UnitSource(units), override_num_blocks=-(-len(units) // _UNITS_PER_READ_TASK)
    )
    pixels = source.map(ReadStage(work), num_cpus=TASK_CPUS)
    return pixels.map_batches(
        SegmentStage,
        fn_constructor_kwargs={"work": work},
        batch_size=1,
        batch_format="numpy",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            size=min(work.replicas, len(units)), max_tasks_in_flight_per_actor=2
        ),
        num_cpus=0 if on_gpu else 1,
        num_gpus=1 if on_gpu else 0,
    )


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


class ReadStage:
    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: Row) -> Row:
        return pack(self._work.read(pickle.loads(row["unit"])))


class SegmentStage:
    """A replica in an actor."""

    def __init__(self, work: Work) -> None:
        from pipeline.replica import Replica  # noqa: PLC0415  readers need not load torch

        self._replica = Replica(work)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        row = pack(self._replica.segment(unpack(batch["head"][0], batch["data"][0])))
        return {"head": np.array([row["head"]], dtype=object), "data": row["data"][None]}


class UnitSink(Datasink[None]):
    """One file per unit, whole or not at all; Ray's own sink leaves broken files when killed."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def write(self, blocks: Iterable[RayBlock], ctx: Any) -> None:
        del ctx
        for block in blocks:
            batch = BlockAccessor.for_block(block).to_numpy(["head", "data"])
            for head, data in zip(batch["head"], batch["data"], strict=True):
                self._work.finish(unpack(head, data))


def pack(value: object) -> Row:
    """A picklable value as its skeleton and one byte tensor that holds its arrays side by side."""
    buffers: list[pickle.PickleBuffer] = []
    skeleton = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    offsets, end = [], 0
    for raw in raws:
        offsets.append((end, raw.nbytes))
        end += -(-raw.nbytes // _ALIGNMENT) * _ALIGNMENT
    data = np.zeros(max(end, 1), np.uint8)
    for raw, (start, size) in zip(raws, offsets, strict=True):
        data[start : start + size] = raw
    return {"head": pickle.dumps((skeleton, offsets)), "data": data}


def unpack(head: bytes, data: np.ndarray) -> Any:
    """The value that was packed; its arrays are views of `data`."""
    skeleton, offsets = pickle.loads(head)
    memory = np.ascontiguousarray(data).data
    return pickle.loads(skeleton, buffers=[memory[start : start + n] for start, n in offsets])

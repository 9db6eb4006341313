"""The actor of a replica: one loaded model in a process of its own.

Knows what the end of such a process means: while it loads, deaths are counted, and a broken GPU
ends it. What a replica computes is `pipeline.engine.replica`'s business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from pipeline.cluster.metrics import GpuMemoryGauge
from pipeline.cluster.packing import pack, unpack
from pipeline.cluster.passed_error import passing_errors
from pipeline.errors import LOG, SwathError, TransientError, UnfinishedError, one_line
from pipeline.processes.limits import process_limits
from pipeline.stages import Work
from pipeline.storage.retry import retries_so_far
from pipeline.unit import ReadUnit, SegmentedUnit

LOADING_DEATHS = 3
"""Consecutive deaths of a loading replica after which the run is given up."""


class SegmentStage:
    """A replica in an actor. Units that still wait for it when the time is up get no outcome."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._retries_before = retries_so_far()
        self._gpu_memory = GpuMemoryGauge(work.output)
        self._refusal: SwathError | None = None
        """Why the replica cannot be loaded. Each call raises it: of an error raised by `__init__`
        Ray would keep only the text."""
        try:
            with _count_loading_deaths(work.job.checkpoint):
                from pipeline.engine.replica import Replica  # noqa: PLC0415  readers need not load torch

                self._replica = Replica(work.job, work.access, work.sharing)
                self._replica.warm_up()
        except TransientError:
            raise  # another actor may have more luck
        except SwathError as error:
            self._refusal = error

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if self._work.out_of_time:
            return
        with passing_errors():
            row = pack(self.segment(unpack(batch["head"][0], batch["data"][0])))
        yield {"head": np.array([row["head"]], dtype=object), "data": row["data"][None]}

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        if self._refusal:
            raise self._refusal
        with process_limits(self._work.unit_timeout_s):
            segmented = self._work.segment(self._compute, read)
        self._gpu_memory.record(segmented.gpu)
        # Retries while loading are counted with the first unit.
        before, self._retries_before = self._retries_before, retries_so_far()
        retries = segmented.retries + self._retries_before - before
        return replace(segmented, retries=retries, brightness=read.brightness)

    def _compute(self, read: ReadUnit) -> SegmentedUnit:
        with exit_on_gpu_error(self._work.job.device):
            return self._replica.segment(read)


@contextmanager
def exit_on_gpu_error(device: str) -> Iterator[None]:
    """Let a GPU's error end the process: after some of them every later call fails, so this actor
    would fail all units. Ray starts another one."""
    try:
        yield
    except RuntimeError as error:
        if device != "cuda":
            raise
        LOG.warning("a GPU failed, and its replica is restarted: %s", one_line(error, ""))
        os._exit(1)


@contextmanager
def _count_loading_deaths(checkpoint: str) -> Iterator[None]:
    """Count the deaths of this actor inside the block: Ray restarts it forever, and the run would
    hang.

    Raises UnfinishedError if it has died here LOADING_DEATHS times in a row.
    """
    # Stored with Ray's head: this process knows nothing of its predecessors.
    key = f"swath-loading-{ray.get_runtime_context().get_actor_id()}".encode()
    deaths = int(_internal_kv_get(key) or 0)
    if deaths == LOADING_DEATHS:
        raise UnfinishedError(
            f"{checkpoint}: no replica could be loaded, its process was killed {deaths} times in a"
            " row, probably for lack of memory; free some memory, and the same command resumes the"
            " run"
        )
    _internal_kv_put(key, str(deaths + 1).encode(), overwrite=True)
    yield
    _internal_kv_del(key)

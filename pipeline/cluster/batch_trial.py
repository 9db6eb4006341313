"""The largest batch with which a unit fits, tried where a job's replicas will run.

A process of its own tries it, here or on a cluster: the driver holds no GPU, and a crash is an
answer. What does not fit is halved, so that whoever tries finds the same batch. On a GPU
one that fits has been tried, none yet that does not.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from pipeline.cluster.ray_errors import ours_in, root_of
from pipeline.cluster.session import connected
from pipeline.cluster.shared_paths import check_seen
from pipeline.engine.replica import Replica
from pipeline.errors import LOG, UnfinishedError
from pipeline.grid import WindowGrid
from pipeline.processes.fresh_process import LOOSE_BYTES, run_in_fresh_process
from pipeline.processes.limits import process_limits
from pipeline.processes.sandbox import Limits
from pipeline.settings import Settings
from pipeline.stages import Work
from pipeline.unit import Block, Pixels, ReadUnit, Unit

DEVICES = frozenset({"cuda"})
"""Kinds whose batch is tried. On a CPU it is 1, and a trial would take as long as a small job."""
WAIT_S, SAY_S = 600.0, 30.0
"""For a GPU of a cluster, which others may use, and between two notes on that."""
LOADING_S = 300.0
"""A trial may take so long without a sign, or as long as a unit: first it loads its replica."""
_FAILED = "the batch could not be tried"


def fitting_batch(
    work: Work, unit: Unit, address: str | None, memory_bytes: int = LOOSE_BYTES
) -> int | None:
    """The job's batch, or the largest of its half and so on that fits; 0: none does; None: no GPU
    of the cluster at the address came free in time.

    memory_bytes: of the process that tries it, on this machine. Raises what a replica raises, and
    UnfinishedError where the trial ends otherwise.
    """
    LOG.warning("trying out whether a batch of %s windows fits", work.job.settings.batch)
    if address is None:
        limits = Limits(1, 1, item_s=_limit_s(work), memory_bytes=memory_bytes)
        return run_in_fresh_process(partial(largest_batch, work), unit, limits, _FAILED)
    with connected(address):
        check_seen([work.job.checkpoint])
        return by_task(work, unit)


def by_task(work: Work, unit: Unit) -> int | None:
    """The same, of the cluster that this process has joined."""
    task = ray.remote(
        num_cpus=0,
        num_gpus=work.budget.machine.gpus_per_replica,
        memory=work.need.replica_bytes,
        max_retries=0,
        max_calls=1,
    )(_guarded)
    tried, began_s = task.remote(work, unit, _limit_s(work)), time.monotonic()
    while not ray.wait([tried], timeout=min(SAY_S, WAIT_S))[0]:
        waited_s = time.monotonic() - began_s
        if waited_s >= WAIT_S:
            ray.cancel(tried, force=True)
            return None
        LOG.warning("waiting for a GPU of the cluster to try the batch, since %.0f s", waited_s)
    return _result(tried)


def _result(tried: Any) -> int:
    try:
        return int(ray.get(tried))
    except RayError as error:
        ours = ours_in(error)
        if ours is not None:
            raise ours from error
        raise UnfinishedError(f"{_FAILED}: {root_of(error)}") from error


def _guarded(work: Work, unit: Unit, limit_s: float) -> int:
    """What the task is."""
    with process_limits(limit_s):
        return largest_batch(work, unit)


def _limit_s(work: Work) -> float:
    return max(work.unit_timeout_s, LOADING_S)


def largest_batch(work: Work, unit: Unit) -> int:
    """See `fitting_batch`; in this process."""
    settings = work.job.settings
    blocks = tuple(_sparse(block, settings) for block in unit.blocks)
    return Replica(work.job, work.access, work.sharing).fitting(
        ReadUnit(unit, blocks, read_s=0.0), settings.batch or 1
    )


def _sparse(block: Block, settings: Settings) -> Pixels:
    """Pixels for a block, of which only the top rows of windows are data: as many as are alive at
    once. They take as much of a device as if all were, but not the time."""
    scene, window, stride = block.scene, settings.window, settings.stride
    rect = WindowGrid.of(scene.width, scene.height, window, stride).read_rect(block.core)
    values_CHW = np.zeros((len(scene.bands), rect.height, rect.width), scene.dtype)
    valid_HW = np.zeros((rect.height, rect.width), bool)
    live_rows = -(-window // stride) + 1
    valid_HW[: window + live_rows * stride] = True
    return Pixels(values_CHW, valid_HW, rect)

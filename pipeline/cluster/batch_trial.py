"""The largest batch with which a unit fits, tried where a job's replicas will run.

It is tried in a process of its own, here or on a cluster: the driver holds no GPU, and a crash is
an answer. A batch that does not fit is halved, so that every trial finds the same one. On a GPU a
batch that fits has been tried, one that does not never has.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from pipeline.cluster.ray_errors import root_cause, swath_error_in
from pipeline.cluster.session import connected
from pipeline.cluster.shared_paths import check_shared_paths
from pipeline.engine.replica import Replica
from pipeline.errors import LOG, UnfinishedError
from pipeline.grid import WindowGrid
from pipeline.processes.fresh_process import ADDRESS_SPACE_BYTES, run_in_fresh_process
from pipeline.processes.limits import process_limits
from pipeline.processes.sandbox import Limits
from pipeline.settings import Settings
from pipeline.stages import Segmentation
from pipeline.unit import Block, Pixels, ReadUnit, Unit

DEVICES = frozenset({"cuda"})
"""Kinds of device whose batch is tried. A CPU's is 1, and a trial would take as long as a small
job."""
WAIT_S = 600.0
"""Time to wait for a GPU of a cluster, which others may be using."""
NOTE_S = 30.0
"""Time between two notes on that wait."""
LOADING_S = 300.0
"""Time limit of a trial, or a unit's if that is longer: first it loads its replica."""
_FAILED = "the batch could not be tried"


def fitting_batch(
    work: Segmentation, unit: Unit, address: str | None, memory_bytes: int = ADDRESS_SPACE_BYTES
) -> int | None:
    """The job's batch, or the largest that fits of its half, quarter and so on; 0 if none fits;
    None if no GPU of the cluster at the address became free in time.

    memory_bytes: the limit of the process that tries it on this machine. Raises what a replica
    raises, and UnfinishedError if the trial ends in any other way.
    """
    LOG.warning("trying out whether a batch of %s windows fits", work.job.settings.batch)
    if address is None:
        limits = Limits(1, 1, item_s=_limit_s(work), memory_bytes=memory_bytes)
        return run_in_fresh_process(partial(largest_batch, work), unit, limits, _FAILED)
    with connected(address):
        check_shared_paths([work.job.checkpoint])
        return fitting_batch_on_cluster(work, unit)


def fitting_batch_on_cluster(work: Segmentation, unit: Unit) -> int | None:
    """See `fitting_batch`; on the cluster that this process has joined."""
    task = ray.remote(
        num_cpus=0,
        num_gpus=work.budget.machine.gpus_per_replica,
        memory=work.need.replica_bytes,
        max_retries=0,
        max_calls=1,
    )(_largest_batch_with_limits)
    ref, started_s = task.remote(work, unit, _limit_s(work)), time.monotonic()
    while not ray.wait([ref], timeout=min(NOTE_S, WAIT_S))[0]:
        waited_s = time.monotonic() - started_s
        if waited_s >= WAIT_S:
            ray.cancel(ref, force=True)
            return None
        LOG.warning("waiting for a GPU of the cluster to try the batch, since %.0f s", waited_s)
    return _result(ref)


def _result(ref: Any) -> int:
    try:
        return int(ray.get(ref))
    except RayError as error:
        swath_error = swath_error_in(error)
        if swath_error is not None:
            raise swath_error from error
        raise UnfinishedError(f"{_FAILED}: {root_cause(error)}") from error


def _largest_batch_with_limits(work: Segmentation, unit: Unit, limit_s: float) -> int:
    with process_limits(limit_s):
        return largest_batch(work, unit)


def _limit_s(work: Segmentation) -> float:
    return max(work.unit_timeout_s, LOADING_S)


def largest_batch(work: Segmentation, unit: Unit) -> int:
    """See `fitting_batch`; in this process."""
    settings = work.job.settings
    blocks = tuple(_sparse_pixels(block, settings) for block in unit.blocks)
    return Replica(work.job, work.access, work.sharing).fitting(
        ReadUnit(unit, blocks, read_s=0.0), settings.batch or 1
    )


def _sparse_pixels(block: Block, settings: Settings) -> Pixels:
    """Pixels of a block whose top rows of windows alone are valid: as many as are alive at the same
    time. They take as much of a device's memory as if all were valid, but not the time."""
    scene, grid = block.scene, WindowGrid.over(block.scene, settings)
    rect = grid.read_rect(block.core)
    values_CHW = np.zeros((len(scene.bands), rect.height, rect.width), scene.dtype)
    valid_HW = np.zeros((rect.height, rect.width), bool)
    valid_HW[: settings.window + grid.rows.live * settings.stride] = True
    return Pixels(values_CHW, valid_HW, rect)

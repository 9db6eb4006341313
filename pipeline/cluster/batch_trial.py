"""A trial of a batch by a task on a GPU of the cluster, which others may be using.

Knows how to get the GPU and what the end of the task means, not what is tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.cluster.ray_errors import root_cause, swath_error_in
from pipeline.cluster.session import connected
from pipeline.cluster.shared_paths import check_shared_paths
from pipeline.errors import LOG, UnfinishedError
from pipeline.processes.limits import process_limits
from pipeline.stages import Segmentation
from pipeline.unit import Unit

WAIT_S = 600.0
"""Time to wait for a GPU of the cluster."""
NOTE_S = 30.0
"""Time between two notes on that wait."""

BatchTrial = Callable[[Unit], int]
"""Returns the largest batch with which a unit fits."""


def try_on_cluster(
    trial: BatchTrial, segmentation: Segmentation, unit: Unit, address: str, limit_s: float
) -> int | None:
    """The result of the trial on the cluster at the address; None if no GPU became free in time.

    Raises what a replica raises, and UnfinishedError if the trial ends in any other way.
    """
    with connected(address):
        check_shared_paths([segmentation.job.checkpoint])
        return try_by_task(trial, segmentation, unit, limit_s)


def try_by_task(
    trial: BatchTrial, segmentation: Segmentation, unit: Unit, limit_s: float
) -> int | None:
    """See `try_on_cluster`; on the cluster that this process has joined."""
    task = ray.remote(
        num_cpus=0,
        num_gpus=segmentation.budget.machine.gpus_per_replica,
        memory=segmentation.need.replica_bytes,
        max_retries=0,
        max_calls=1,
    )(_try_with_limits)
    ref, started_s = task.remote(trial, unit, limit_s), time.monotonic()
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
        raise UnfinishedError(f"the batch could not be tried: {root_cause(error)}") from error


def _try_with_limits(trial: BatchTrial, unit: Unit, limit_s: float) -> int:
    with process_limits(limit_s):
        return trial(unit)

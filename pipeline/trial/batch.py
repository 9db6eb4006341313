"""The largest batch with which a unit fits, tried where a job's replicas will run.

It is tried in a process of its own, here or on a cluster: the driver holds no GPU, and a crash is
an answer. A batch that does not fit is halved, so that every trial finds the same one. On a GPU a
batch that fits has been tried, one that does not never has.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from pipeline.engine.replica import Replica
from pipeline.errors import LOG
from pipeline.grid import WindowGrid
from pipeline.processes.fresh_process import run_in_fresh_process
from pipeline.processes.sandbox import Limits
from pipeline.processes.worker_process import ADDRESS_SPACE_BYTES
from pipeline.settings import Settings
from pipeline.stages import Segmentation
from pipeline.unit import Block, Pixels, ReadUnit, Unit

LOADING_S = 300.0
"""Time limit of a trial, or a unit's if that is longer: first it loads its replica."""
_FAILED = "the batch could not be tried"


def fitting_batch(
    segmentation: Segmentation,
    unit: Unit,
    address: str | None,
    memory_bytes: int = ADDRESS_SPACE_BYTES,
) -> int | None:
    """The job's batch, or the largest that fits of its half, quarter and so on; 0 if none fits;
    None if no GPU of the cluster at the address became free in time.

    memory_bytes: the limit of the process that tries it on this machine. Raises what a replica
    raises, and UnfinishedError if the trial ends in any other way.
    """
    batch, limit_s = segmentation.job.settings.batch, max(segmentation.unit_timeout_s, LOADING_S)
    LOG.warning("trying out whether a batch of %s windows fits", batch)
    trial = partial(largest_batch, segmentation)
    if address is None:
        limits = Limits(1, 1, item_s=limit_s, memory_bytes=memory_bytes)
        return run_in_fresh_process(trial, unit, limits, _FAILED)
    from pipeline.cluster.batch_trial import try_on_cluster  # noqa: PLC0415  Ray takes seconds to load

    return try_on_cluster(trial, segmentation, unit, address, limit_s)


def largest_batch(segmentation: Segmentation, unit: Unit) -> int:
    """See `fitting_batch`; in this process."""
    settings = segmentation.job.settings
    blocks = tuple(_sparse_pixels(block, settings) for block in unit.blocks)
    replica = Replica(segmentation.job, segmentation.access, segmentation.sharing)
    return replica.fitting_batch(ReadUnit(unit, blocks, read_s=0.0), settings.batch or 1)


def _sparse_pixels(block: Block, settings: Settings) -> Pixels:
    """Pixels of a block whose top rows of windows alone are valid: as many as are alive at the same
    time. They take as much of a device's memory as if all were valid, but not the time."""
    scene, grid = block.scene, WindowGrid.over(block.scene, settings)
    rect = grid.read_rect(block.core)
    values_CHW = np.zeros((len(scene.bands), rect.height, rect.width), scene.values_dtype)
    valid_HW = np.zeros((rect.height, rect.width), bool)
    valid_HW[: settings.window + grid.rows.live * settings.stride] = True
    return Pixels(values_CHW, valid_HW, rect)

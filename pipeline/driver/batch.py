"""The batch that a new job uses: tried where the job will run, if its device's memory limits it.

Knows when a batch is tried and what its answer means, not how it is tried.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.driver.preparation import Preparation
from pipeline.errors import UsageError

DEVICES = frozenset({"cuda"})
"""Kinds of device whose batch is tried. A CPU's is 1, and a trial would take as long as a small
job."""


def is_tried(preparation: Preparation) -> bool:
    """Whether a run starts by trying the batch: recorded ones are not tried."""
    return preparation.output is None and preparation.job.device in DEVICES


def fit_batch(preparation: Preparation) -> Preparation:
    """The preparation with a batch that fits where the job will run.

    Raises UsageError if the requested batch does not fit, or none does, and what `fitting_batch`
    raises.
    """
    units = [unit for shard in preparation.new for unit in shard.units]
    if not units or not is_tried(preparation):
        return preparation
    request, settings = preparation.request, preparation.job.settings
    largest = max(units, key=preparation.workload.device_bytes)
    from pipeline.trial.batch import fitting_batch  # noqa: PLC0415  torch takes seconds to load

    batch = fitting_batch(preparation.segmentation, largest, request.execution.address)
    if batch == settings.batch:
        return preparation
    option = f"--batch {settings.batch}:"
    if batch is None:
        note = (
            f"{option} no GPU of the cluster was free to try it; if it does not fit, the run will"
            " stop and name one that does"
        )
        return replace(preparation, notes=(*preparation.notes, note))
    where = (
        f"beside block {largest.blocks[0].core}, windows of {settings.window} px,"
        f" {settings.dtype}, {preparation.job.device}"
    )
    if not batch:
        raise UsageError(
            f"{option} there is no memory for even one window ({where}); use a smaller --window or"
            " --block, another --dtype or a smaller network"
        )
    if request.settings.batch:
        raise UsageError(f"{option} there is no memory for it ({where}); use --batch {batch}")
    settings = replace(settings, batch=batch)
    return replace(
        preparation,
        job=replace(preparation.job, settings=settings),
        division=preparation.division.with_settings(settings),
        notes=(
            *preparation.notes,
            f"--batch {batch}: there is no memory for twice as many ({where})",
        ),
    )

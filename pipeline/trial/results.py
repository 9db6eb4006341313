"""What `plan` computes on this machine if asked to: a rate, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.estimate import Rate, Sample
from pipeline.planning.planner import BATCH
from pipeline.scene import Scene
from pipeline.settings import NO_TRIAL, Trial
from pipeline.stages import Segmentation


@dataclass(frozen=True)
class TrialResults:
    """The results of a trial; empty if nothing was asked for."""

    rate: Rate | None = None
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()


def run_trial(segmentation: Segmentation, scenes: Sequence[Scene], trial: Trial) -> TrialResults:
    """Calibrate and sample as asked; do nothing without scenes. Raises what calibrating and
    sampling raise."""
    if not scenes or trial == NO_TRIAL:
        return TrialResults()
    # torch takes seconds to load
    from pipeline.trial.calibration import calibrate  # noqa: PLC0415
    from pipeline.trial.dtype_note import dtype_note  # noqa: PLC0415
    from pipeline.trial.samples import segment_samples  # noqa: PLC0415

    results = TrialResults()
    if trial.calibrate:
        rates = calibrate(segmentation, len(scenes[0].bands))
        notes = tuple(dtype_note(segmentation, scenes, rates))
        results = TrialResults(rates[segmentation.job.settings.dtype], notes=notes)
    if trial.sample_to:
        local = on_this_machine(segmentation)
        samples, notes = segment_samples(local, scenes, trial.sample, trial.sample_to)
        results = replace(results, samples=samples, notes=results.notes + notes)
    return results


def on_this_machine(segmentation: Segmentation) -> Segmentation:
    """The same segmentation for this machine's device: a cluster's GPUs are elsewhere, and here may
    be no memory for their batch. The pictures look the same."""
    from pipeline.engine.device import local_devices  # noqa: PLC0415

    device, job = local_devices()[0], segmentation.job
    if device == job.device:
        return segmentation
    settings = replace(job.settings, batch=BATCH[device])
    return replace(segmentation, job=replace(job, device=device, settings=settings))

"""What `plan` computes on this machine, where it is asked to: a rate, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.engine.device import devices_here
from pipeline.estimate import Rate, Sample
from pipeline.planning.planner import BATCH
from pipeline.scene import Scene
from pipeline.settings import Trial
from pipeline.stages import Work
from pipeline.trial.calibration import calibrate
from pipeline.trial.samples import samples


@dataclass(frozen=True)
class Tried:
    """What has come of it."""

    rate: Rate | None = None
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()


def run_trial(work: Work, scenes: Sequence[Scene], trial: Trial) -> Tried:
    """Nothing where there are no scenes. Raises what calibrating and sampling raise."""
    if not scenes:
        return Tried()
    rate = calibrate(work, len(scenes[0].bands)) if trial.calibrate else None
    if not trial.sample_to:
        return Tried(rate)
    return Tried(rate, *samples(_here(work), scenes, trial.sample, trial.sample_to))


def _here(work: Work) -> Work:
    """A cluster's GPUs are not here, nor is there memory for their batch; the pictures look the
    same."""
    device, job = devices_here()[0], work.job
    if device == job.device:
        return work
    settings = replace(job.settings, batch=BATCH[device])
    return replace(work, job=replace(job, device=device, settings=settings))

"""What `plan` computes on this machine, where it is asked to: a rate, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.calibration import calibrated
from pipeline.forecast import Rate, Sample
from pipeline.replica import devices_here
from pipeline.samples import samples
from pipeline.scene import Scene
from pipeline.settings import Trial
from pipeline.stages import Work


@dataclass(frozen=True)
class Tried:
    """What has come of it."""

    rate: Rate | None = None
    samples: tuple[Sample, ...] = ()
    notes: tuple[str, ...] = ()


def tried_out(work: Work, scenes: Sequence[Scene], trial: Trial) -> Tried:
    """Nothing where there are no scenes. Raises what calibrating and sampling raise."""
    if not scenes:
        return Tried()
    rate = calibrated(work, len(scenes[0].bands)) if trial.calibrate else None
    if not trial.sample_to:
        return Tried(rate)
    # A cluster's GPUs are not here; the pictures look the same.
    here = replace(work, job=replace(work.job, device=devices_here()[0]))
    return Tried(rate, *samples(here, scenes, trial.sample, trial.sample_to))

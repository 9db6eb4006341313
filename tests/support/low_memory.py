"""What a replica says whose memory is short. The workers import it."""

from __future__ import annotations

from pipeline.engine.device import GpuMonitor
from pipeline.engine.replica import Replica
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.stages import Segmentation
from pipeline.trial.calibration import random_unit


def refusal(segmentation: Segmentation, size: int) -> str:
    """In place of a GPU's memory it has what this process may take. Its next unit is refused with
    the same words."""
    replica = Replica(segmentation.job, segmentation.access, segmentation.sharing)
    replica._gpu = GpuMonitor(peak_bytes=lambda: 0, percent=lambda: 0)
    read = random_unit(Settings(window=size, stride=size), 3, 1, 1)
    said = []
    for _ in range(2):
        try:
            replica.segment(read)
        except UsageError as error:
            said.append(str(error))
    first, second = said
    assert first == second
    return first

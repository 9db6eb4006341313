"""A replica whose memory is short. Worker processes import this file."""

from __future__ import annotations

from pipeline.engine.device import GpuMonitor
from pipeline.engine.replica import Replica
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.stages import Segmentation
from pipeline.trial.calibration import random_unit


def refusal(segmentation: Segmentation, size: int) -> str:
    """The message with which a replica refuses a unit, and the next one in the same words.

    The memory of this process is used in place of a GPU's.
    """
    replica = Replica(segmentation.job, segmentation.access, segmentation.sharing)
    replica._gpu = GpuMonitor(peak_bytes=lambda: 0, percent=lambda: 0)
    read = random_unit(Settings(window=size, stride=size), 3, 1, 1)
    messages = []
    for _ in range(2):
        try:
            replica.segment(read)
        except UsageError as error:
            messages.append(str(error))
    first, second = messages
    assert first == second
    return first

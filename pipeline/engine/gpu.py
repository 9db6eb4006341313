"""What a GPU says of its memory and its load.

Knows neither the network nor units. Asks NVML by way of torch, where nvidia-ml-py is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pipeline.unit import GpuUse

SAMPLE_S = 1.0
"""NVML's own figure is of the last sixth of a second to a second; asking takes milliseconds."""


class Gpu:
    """The GPU that this process uses."""

    def __init__(
        self,
        peak_bytes: Callable[[], int] = torch.cuda.max_memory_reserved,
        percent: Callable[[], int] = torch.cuda.utilization,
    ) -> None:
        self._peak_bytes = peak_bytes
        self._percent: Callable[[], int] | None = percent
        self._samples: list[int] = []
        self._next = time.monotonic() + SAMPLE_S

    def sample(self) -> None:
        """Call often: it asks once a second."""
        if self._percent is None or time.monotonic() < self._next:
            return
        try:
            self._samples.append(self._percent())
        # Without nvidia-ml-py; its own errors, of MIG devices or containers, are RuntimeErrors or
        # plain Exceptions by version: none of them may end a run.
        except Exception:  # noqa: BLE001
            self._percent = None
        self._next = time.monotonic() + SAMPLE_S

    def use(self) -> GpuUse:
        """Since it was asked last."""
        samples, self._samples = self._samples, []
        busy = sum(samples) / len(samples) / 100 if samples else None
        return GpuUse(self._peak_bytes(), busy)

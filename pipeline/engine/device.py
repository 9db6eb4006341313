"""The devices that replicas on this machine use, and what a GPU reports of its memory and load.

Knows neither the network nor units.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch

from pipeline.processes.host import available_cores
from pipeline.unit import GpuUse

SAMPLE_S = 1.0
"""Seconds between samples of the load. NVML's own figure covers the last sixth of a second to a
second; asking takes milliseconds."""


def local_devices() -> tuple[str, int]:
    """The kind of device that replicas on this machine use, "cuda" or "cpu", and the number of GPUs
    or cores."""
    if sys.platform == "linux" and torch.cuda.is_available():  # Triton exists for Linux only
        return "cuda", torch.cuda.device_count()
    return "cpu", available_cores()


class GpuMonitor:
    """Samples the GPU that this process uses: NVML by way of torch, if nvidia-ml-py is
    installed."""

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
        """Take a sample of the load if the last one is a second old. Call often."""
        if self._percent is None or time.monotonic() < self._next:
            return
        try:
            self._samples.append(self._percent())
        # Without nvidia-ml-py; its own errors, of MIG devices or containers, are RuntimeErrors or
        # plain Exceptions by version: none of them may stop a run.
        except Exception:  # noqa: BLE001
            self._percent = None
        self._next = time.monotonic() + SAMPLE_S

    def use(self) -> GpuUse:
        """The peak memory, and the mean load since the last call."""
        samples, self._samples = self._samples, []
        busy = sum(samples) / len(samples) / 100 if samples else None
        return GpuUse(self._peak_bytes(), busy)

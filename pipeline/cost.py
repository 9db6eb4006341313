"""What a block or a unit takes: windows, bytes, memory, seconds. Pure arithmetic over headers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pipeline.grid import WindowGrid
from pipeline.scene import Block, Rect, Scene, Unit
from pipeline.settings import Settings

NOMINAL_GFLOP_PER_S = {"cpu": 45.0, "cuda": 30_000.0}
"""Of one CPU thread (measured: 40 to 50 on AVX-512 cores) and of one GPU (assumed, not measured):
they size units and the estimate of hours, nothing else."""
WINDOW_S = {"cpu": 0.004, "cuda": 0.0002}
"""What a window takes beside its arithmetic: measured with 64 px windows, and assumed."""
_PROCESS_BYTES = 900_000_000
"""Interpreter, torch, Ray's worker and a loaded B5."""
_READER_BYTES = 400_000_000
"""Interpreter, Ray's worker, GDAL and fsspec."""
_GDAL_BYTES = 128 << 20
"""raster.GDAL_CACHE_MB, for a runner that reads in the replica's process."""
_ACTIVATION_BYTES_PER_PX = 1600
"""Peak of the forward pass per pixel of one window, float32, folded head."""


@dataclass(frozen=True)
class Machine:
    """What runs the replicas."""

    device: str
    replicas: int
    memory_bytes: int


@dataclass(frozen=True)
class Network:
    """What is to be known of the checkpoint."""

    classes: int
    gflop_per_window: float


@dataclass(frozen=True)
class Need:
    """Predicted peaks of resident memory, each of one process with the unit that asks for most."""

    reader_bytes: int
    replica_bytes: int


@dataclass(frozen=True)
class Cost:
    """Costs under one job's settings."""

    settings: Settings
    machine: Machine
    network: Network

    @property
    def window_s(self) -> float:
        """Seconds of one replica for one window, nominally."""
        device = self.machine.device
        return self.network.gflop_per_window / NOMINAL_GFLOP_PER_S[device] + WINDOW_S[device]

    def grid(self, scene: Scene) -> WindowGrid:
        return WindowGrid.of(scene.width, scene.height, self.settings.window, self.settings.stride)

    def windows(self, block: Block) -> int:
        """Windows that the block computes."""
        return self.grid(block.scene).computed(block.core)

    def grid_windows(self, block: Block) -> float:
        """The block's share of its scene's windows, none of them counted twice."""
        return self.grid(block.scene).count * block.core.pixels / block.scene.pixels

    def read_bytes(self, block: Block) -> int:
        """Uncompressed pixels to be read, the halo included."""
        read = self.grid(block.scene).read_rect(block.core)
        return read.pixels * _pixel_bytes(block.scene)

    def memory_bytes(self, unit: Unit) -> int:
        """Predicted peak of a replica's process with this unit."""
        total = _PROCESS_BYTES + _GDAL_BYTES + self._batch_bytes()
        for block in unit.blocks:
            total += self._pixel_bytes(block) + 2 * block.core.pixels
        return total + max(self._live_bytes(block) for block in unit.blocks)

    def reader_bytes(self, unit: Unit) -> int:
        """Predicted peak of a reader's process with this unit: its pixels as they are read and,
        once more, packed for the replica."""
        return _READER_BYTES + _GDAL_BYTES + 2 * sum(map(self._pixel_bytes, unit.blocks))

    def need(self, units: Iterable[Unit]) -> Need:
        """Of the largest of the units."""
        peaks = [(self.reader_bytes(unit), self.memory_bytes(unit)) for unit in units]
        return Need(*(max(column) for column in zip(*peaks, strict=True))) if peaks else Need(0, 0)

    def _pixel_bytes(self, block: Block) -> int:
        """Pixels and valid mask of a block as it is read."""
        return self.read_bytes(block) + self.grid(block.scene).read_rect(block.core).pixels

    def _batch_bytes(self) -> int:
        return (self.settings.batch or 1) * self.settings.window**2 * _ACTIVATION_BYTES_PER_PX

    def _live_bytes(self, block: Block) -> int:
        """Low-resolution logits of the rows of windows that are not blended yet, float32."""
        settings = self.settings
        live_rows = -(-settings.window // settings.stride) + 1
        rows, columns = self.grid(block.scene).touching(block.core)
        windows = min(live_rows, len(rows)) * len(columns) + (settings.batch or 1)
        return windows * self.network.classes * (settings.window // 4 + 1) ** 2 * 4

    def remedy(self, block: Block, available_bytes: int) -> str:
        """What to change so that the block fits."""
        edge = max(block.core.width, block.core.height)
        while edge > 512:
            edge = (edge - 1) // 512 * 512
            core = Rect(0, 0, min(edge, block.scene.width), min(edge, block.scene.height))
            if self.memory_bytes(Unit("", (Block(block.scene, core),))) <= available_bytes:
                return f"use --block {edge} or fewer --replicas"
        if self._batch_bytes() > available_bytes // 2:
            return "use a smaller --window or --batch"
        return "use a larger --stride, a smaller --window or fewer --replicas"


def _pixel_bytes(scene: Scene) -> int:
    return len(set(scene.bands)) * np.dtype(scene.dtype).itemsize


def blocks_of(units: Iterable[Unit]) -> list[Block]:
    return [block for unit in units for block in unit.blocks]

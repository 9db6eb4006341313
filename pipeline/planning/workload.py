"""The work in a block or a unit: windows, bytes, seconds. Pure arithmetic over headers.

Does not know prices: those are in `pipeline.estimate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.grid import WindowGrid
from pipeline.planning.machine import Machine
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.unit import Block, Unit
from segformer.flops import gflop_per_window

if TYPE_CHECKING:
    from segformer.config import ModelConfig

NOMINAL_GFLOP_PER_S = {"cpu": 90.0, "cuda": 34_000.0}
"""Nominal speed of one CPU thread (measured: 85 to 110 on AVX-512 cores) and of one GPU (an H100,
in float32). It affects the size of units and the estimate of hours, nothing else."""
WINDOW_S = {"cpu": 0.004, "cuda": 0.0002}
"""Seconds per window in addition to its arithmetic: measured with 64 px windows, and on an H100."""
_HALF_GFLOP_PER_S = 225_000.0
"""NOMINAL_GFLOP_PER_S of a GPU in half precision."""
_HALF_WINDOW_S = 0.00013
"""WINDOW_S of a GPU in half precision."""
_SMALL_BYTES = 256_000
"""Logits of a window up to this size are allocated between what each forward pass frees, and so
fragment the heap."""
_FRAGMENTATION = 1.6
"""Memory that such logits keep, as a multiple of their size (measured: up to 1.5, with 65 px and
150 classes; 1.0 with 64 px, and with larger ones)."""


@dataclass(frozen=True)
class Network:
    """What a plan needs to know of a checkpoint's network."""

    classes: int
    gflop_per_window: float
    weights_bytes: int
    """Size of the weights as float32."""
    bytes_per_px: int
    """Peak memory of the forward pass per pixel of its windows, float32."""

    @classmethod
    def of(cls, config: ModelConfig, weights_bytes: int, window_px: int) -> Network:
        """The network's numbers for windows of this edge.

        bytes_per_px: the wider of a stage's Mix-FFN and the head, in addition to what lives
        throughout: the scales, and the input in five forms. Above what was measured with MiT-B0,
        B1, B2 and B5 at 512 and 1024 px (165 to 468 bytes; this gives 206 to 550)."""
        stride, scales, widest = 1, 0.0, 0.0
        for size, ratio, step in zip(
            config.hidden_sizes, config.mlp_ratios, config.strides, strict=True
        ):
            stride *= step
            scales += size / stride**2
            widest = max(widest, size * (2 + 3 * ratio) / stride**2)
        head = 2 * (config.decoder_hidden_size + config.num_labels) / config.strides[0] ** 2
        floats = max(widest, head) + scales + 5 * config.num_channels
        gflop = gflop_per_window(config, window_px)
        return cls(len(config.class_names), gflop, weights_bytes, math.ceil(4 * floats))


@dataclass(frozen=True)
class Workload:
    """The work in blocks and units under one job's settings, on one machine, with one network."""

    settings: Settings
    machine: Machine
    network: Network

    @property
    def alone(self) -> Workload:
        """The same work for a plain loop, which has the machine to itself."""
        return replace(self, machine=self.machine.alone)

    @property
    def window_s(self) -> float:
        """Nominal seconds that a replica takes for a window."""
        device = self.machine.device
        gflop_per_s, overhead_s = NOMINAL_GFLOP_PER_S[device], WINDOW_S[device]
        sharing = 1
        if device == "cuda":
            sharing = self.machine.sharing
            if self.settings.dtype != "float32":
                gflop_per_s, overhead_s = _HALF_GFLOP_PER_S, _HALF_WINDOW_S
        return sharing * (self.network.gflop_per_window / gflop_per_s + overhead_s)

    def grid(self, scene: Scene) -> WindowGrid:
        return WindowGrid.over(scene, self.settings)

    def windows(self, block: Block) -> int:
        """Windows that are computed for the block."""
        return self.grid(block.scene).computed(block.core)

    def grid_windows(self, block: Block) -> float:
        """See the function `grid_windows`."""
        return grid_windows(block, self.settings)

    def read_bytes(self, block: Block) -> int:
        """Size of the uncompressed pixels to read, including the halo."""
        read = self.grid(block.scene).read_rect(block.core)
        return read.pixels * _pixel_bytes(block.scene)

    def row_bytes(self, unit: Unit) -> int:
        """Size of a unit's pixels and valid masks as they are handed to a replica."""
        total = 0
        for block in unit.blocks:
            read = self.grid(block.scene).read_rect(block.core)
            values = len(block.scene.bands) * np.dtype(block.scene.values_dtype).itemsize
            total += read.pixels * (values + 1)
        return total

    def stored_bytes(self, unit: Unit) -> int:
        """Size of a unit's pixels as they are stored."""
        return sum(map(self.read_bytes, unit.blocks))

    def ids_bytes(self, unit: Unit) -> int:
        """Size of a unit's class ids."""
        return unit.pixels * (1 if self.network.classes <= 255 else 2)

    def device_bytes(self, unit: Unit) -> int:
        """Size of a unit on a device with its own memory: its pixels and class ids, and the logits
        of one block."""
        return self.row_bytes(unit) + self.ids_bytes(unit) + max(map(self.live_bytes, unit.blocks))

    def batch_bytes(self) -> int:
        """Peak memory of the forward pass."""
        return (self.settings.batch or 1) * self.settings.window**2 * self.network.bytes_per_px

    def live_bytes(self, block: Block) -> int:
        """Size of the low-resolution logits of the rows of windows not blended yet, float32."""
        settings, grid = self.settings, self.grid(block.scene)
        rows, columns = grid.touching(block.core)
        windows = min(grid.rows.live, len(rows)) * len(columns) + (settings.batch or 1)
        window_bytes = self.network.classes * (settings.window // 4 + 1) ** 2 * 4
        factor = _FRAGMENTATION if window_bytes <= _SMALL_BYTES else 1.0
        return math.ceil(factor * windows * window_bytes)


def grid_windows(block: Block, settings: Settings) -> float:
    """The block's part of its scene's windows, each of them counted once: a fraction, so that the
    blocks of a scene add up to its grid."""
    scene = block.scene
    grid = WindowGrid.over(scene, settings)
    return grid.count * block.core.pixels / scene.pixels


def _pixel_bytes(scene: Scene) -> int:
    """Bytes to read per pixel: a band that feeds several channels is read once, and so is the one
    of indices into a color table."""
    bands = 1 if scene.palette else len(set(scene.bands))
    return bands * np.dtype(scene.dtype).itemsize

"""What a block or a unit takes: windows, bytes, seconds. Pure arithmetic over headers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
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
"""Of one CPU thread (measured: 85 to 110 on AVX-512 cores) and of one GPU (an H100, in float32):
they size units and the estimate of hours, nothing else."""
WINDOW_S = {"cpu": 0.004, "cuda": 0.0002}
"""What a window takes beside its arithmetic: measured with 64 px windows, and on an H100."""
_HALF_GFLOP_PER_S, _HALF_WINDOW_S = 225_000.0, 0.00013
"""The same of a GPU in half precision."""

_SMALL_BYTES, _SCATTERED = 256_000, 1.6
"""Logits of a window that lie between what each forward pass frees, and what they keep in all
(measured: up to 1.5, with 65 px and 150 classes; 1.0 with 64 px, and with larger ones)."""


@dataclass(frozen=True)
class Network:
    """What is to be known of the checkpoint."""

    classes: int
    gflop_per_window: float
    weights_bytes: int
    """As float32."""
    bytes_per_px: int
    """Peak of the forward pass per pixel of its windows, float32."""

    @classmethod
    def of(cls, config: ModelConfig, weights_bytes: int, window_px: int) -> Network:
        """bytes_per_px: the wider of a stage's Mix-FFN and the head, beside what lives throughout:
        the scales, and the input in five forms. Above what was measured with MiT-B0, B1, B2 and B5
        at 512 and 1024 px (165 to 468 bytes; this gives 206 to 550)."""
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
class Cost:
    """Costs under one job's settings."""

    settings: Settings
    machine: Machine
    network: Network

    @property
    def window_s(self) -> float:
        """Seconds of one replica for one window, nominally."""
        device = self.machine.device
        gflop_per_s, beside_s = NOMINAL_GFLOP_PER_S[device], WINDOW_S[device]
        sharing = 1
        if device == "cuda":
            sharing = self.machine.sharing
            if self.settings.dtype != "float32":
                gflop_per_s, beside_s = _HALF_GFLOP_PER_S, _HALF_WINDOW_S
        return sharing * (self.network.gflop_per_window / gflop_per_s + beside_s)

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

    def row_bytes(self, unit: Unit) -> int:
        """Pixels and valid mask of a unit as they are handed to a replica."""
        total = 0
        for block in unit.blocks:
            read = self.grid(block.scene).read_rect(block.core)
            values = len(block.scene.bands) * np.dtype(block.scene.dtype).itemsize
            total += read.pixels * (values + 1)
        return total

    def ids_bytes(self, unit: Unit) -> int:
        """Class ids of a unit."""
        return unit.pixels * (1 if self.network.classes <= 255 else 2)

    def device_bytes(self, unit: Unit) -> int:
        """What the unit takes on a device with memory of its own: its pixels and class ids, and the
        logits of one block."""
        return self.row_bytes(unit) + self.ids_bytes(unit) + max(map(self.live_bytes, unit.blocks))

    def batch_bytes(self) -> int:
        """Peak of the forward pass."""
        return (self.settings.batch or 1) * self.settings.window**2 * self.network.bytes_per_px

    def live_bytes(self, block: Block) -> int:
        """Low-resolution logits of the rows of windows that are not blended yet, float32."""
        settings = self.settings
        live_rows = -(-settings.window // settings.stride) + 1
        rows, columns = self.grid(block.scene).touching(block.core)
        windows = min(live_rows, len(rows)) * len(columns) + (settings.batch or 1)
        window_bytes = self.network.classes * (settings.window // 4 + 1) ** 2 * 4
        scattered = _SCATTERED if window_bytes <= _SMALL_BYTES else 1.0
        return math.ceil(scattered * windows * window_bytes)


def _pixel_bytes(scene: Scene) -> int:
    return len(set(scene.bands)) * np.dtype(scene.dtype).itemsize


def blocks_of(units: Iterable[Unit]) -> list[Block]:
    return [block for unit in units for block in unit.blocks]

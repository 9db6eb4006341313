"""Cuts windows from the pixels of blocks and normalizes them, as the network wants them: the
interface, and the cutter for a network that runs on the CPU. `window_cutter_cuda.py` is the other.

What is not data becomes 0, the channel mean after normalization: it says nothing. Knows neither the
network nor scenes. Suffixes: N batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from segformer import Normalisation


class HeldPixels:
    """The pixels of a block, as the cutter that holds them wants them: opaque to everyone else."""


@dataclass(frozen=True)
class WindowPixels:
    """The pixels of a window, and how their stored values become those that the network gets before
    normalization."""

    held: HeldPixels
    """The pixels of the window's block, from the cutter that is to cut the window."""
    top: int
    left: int
    """The window's first row and column in them; it may reach beyond their end."""
    scale: float
    offset: float
    """Before normalization, the network's value is the stored value * scale + offset."""


class Cutter(Protocol):
    """Cuts windows on one kind of device."""

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> HeldPixels:
        """The pixels of a block: stored values of any number type; bool, True = data."""

    def cut(self, windows: Sequence[WindowPixels], x_NCHW: torch.Tensor) -> None:
        """Write the windows to the first of N places, in the network's dtype and channels_last."""

    def drop(self) -> None:
        """Forget all held pixels: none of them will be cut any more, and those still on their way
        need not arrive."""


@dataclass(frozen=True)
class HostPixels(HeldPixels):
    """Pixels in the host's memory, as they were read."""

    values_CHW: np.ndarray
    valid_HW: np.ndarray
    """bool, True = data."""


class HostCutter:
    """Cuts windows for a network that runs on the CPU."""

    def __init__(self, normalisation: Normalisation) -> None:
        channels = torch.tensor([normalisation.mean, normalisation.std])
        self._mean_C11, self._std_C11 = channels[:, :, None, None]

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> HostPixels:
        return HostPixels(values_CHW, valid_HW)

    def cut(self, windows: Sequence[WindowPixels], x_NCHW: torch.Tensor) -> None:
        for window, x_CHW in zip(windows, x_NCHW, strict=False):
            self._cut_one(window, x_CHW)

    def drop(self) -> None:
        """Nothing is on its way."""

    def _cut_one(self, window: WindowPixels, x_CHW: torch.Tensor) -> None:
        held = window.held
        assert isinstance(held, HostPixels)
        channels, edge, _ = x_CHW.shape
        raw_CHW = torch.empty(channels, edge, edge)
        valid_1HW = torch.zeros(1, edge, edge, dtype=torch.bool)
        rows = slice(window.top, window.top + edge)
        cols = slice(window.left, window.left + edge)
        height, width = held.valid_HW[rows, cols].shape
        raw_CHW.numpy()[:, :height, :width] = held.values_CHW[:, rows, cols]
        valid_1HW.numpy()[:, :height, :width] = held.valid_HW[rows, cols]
        value_CHW = raw_CHW * window.scale + window.offset
        value_CHW = (value_CHW - self._mean_C11) / self._std_C11
        x_CHW.copy_(torch.where(valid_1HW & value_CHW.isfinite(), value_CHW, 0.0))

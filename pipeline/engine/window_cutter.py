"""Windows cut from the pixels of blocks and normalised, as the network wants them: where that runs
on the CPU. `cuts_cuda.py` is its sister.

What is not data becomes 0, the channel mean after normalisation: it says nothing. Knows neither the
network nor scenes. Suffixes: N batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from segformer import Normalisation


@dataclass(frozen=True)
class Cut:
    """Where a window lies in the pixels of its block, and how their values become reflectances."""

    pixels: Any
    """As the cutter that is given the cut holds them."""
    top: int
    left: int
    scale: float
    offset: float


class Cutter(Protocol):
    """Cuts windows on one kind of device."""

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> Any:
        """The pixels of a block, as cuts name them: stored values of any number type; bool."""

    def cut(self, cuts: Sequence[Cut], x_NCHW: torch.Tensor) -> None:
        """Writes the windows to the first of N places: channels_last, of the network's type."""

    def drop(self) -> None:
        """Nothing that is held will be cut any more; what is on its way need not arrive."""


class HostCutter:
    """Where the network runs on the CPU."""

    def __init__(self, normalisation: Normalisation) -> None:
        channels = torch.tensor([normalisation.mean, normalisation.std])
        self._mean_C11, self._std_C11 = channels[:, :, None, None]

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values_CHW, valid_HW

    def cut(self, cuts: Sequence[Cut], x_NCHW: torch.Tensor) -> None:
        for cut, x_CHW in zip(cuts, x_NCHW, strict=False):
            self._put(cut, x_CHW)

    def drop(self) -> None:
        """Nothing is on its way."""

    def _put(self, cut: Cut, x_CHW: torch.Tensor) -> None:
        values_CHW, valid_HW = cut.pixels
        channels, edge, _ = x_CHW.shape
        raw_CHW = torch.empty(channels, edge, edge)
        valid_1HW = torch.zeros(1, edge, edge, dtype=torch.bool)
        here = np.s_[cut.top : cut.top + edge, cut.left : cut.left + edge]
        height, width = valid_HW[here].shape
        raw_CHW.numpy()[:, :height, :width] = values_CHW[:, *here]
        valid_1HW.numpy()[:, :height, :width] = valid_HW[here]
        value_CHW = raw_CHW * cut.scale + cut.offset
        value_CHW = (value_CHW - self._mean_C11) / self._std_C11
        x_CHW.copy_(torch.where(valid_1HW & value_CHW.isfinite(), value_CHW, 0.0))

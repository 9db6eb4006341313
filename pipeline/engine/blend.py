"""From the windows that cover a strip of a block to class ids and confidences: what every blend
does, and the plain one of torch: the oracle of the compiled ones, and what devices without one use.

A pixel's value for a class is, in this order: the windows of a group of rows and a group of
columns added, row by row; interpolated between rows; the groups of rows added; interpolated between
columns; the groups of columns added. Single float32 multiplications and additions: bit-equal in
every blend, on every processor and however a scene is cut. Suffixes: K classes, H W pixels, h w
positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pipeline.engine.bilinear import Group, Segment
from pipeline.scene import Rect
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import CONFIDENCE_SCALE, Stitched, mask_dtype, nodata_value

_LIVE_VALUES = 1 << 20
"""Upsampled values held at once: larger pieces leave the cache."""
SAMPLE_STEP, SAMPLE_AT = 4, 2
"""Confidence is sampled where row and column of the scene leave 2 when divided by 4."""

EXP_LEAST = -87.0
"""Below, exp() leaves the normal numbers; a class so far behind weighs nothing."""
LOG2_E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts, the first with few digits, so that its products are exact."""
ROUNDS = 12582912.0
"""1.5 * 2**23: added and taken off again it rounds a small float32 to a whole number."""
EXP_TERMS = (
    *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
    *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
)
"""(exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2, highest power first: the Cephes library's expf."""

Windows = Mapping[tuple[int, int], torch.Tensor]
"""The live windows by their place in the grid: float32 logits K x h x w."""


@dataclass(frozen=True)
class Region:
    """The core of a block, and how it is covered by windows."""

    core: Rect
    valid_HW: np.ndarray
    """bool, of the core."""
    classes: int
    window_px: int
    low: int
    """Positions of a window's logits in each direction."""
    windows: range
    """The columns of windows that touch the core."""
    columns: list[Segment]
    """Of the core, from left to right."""
    row_groups: int
    """Of a strip at most."""

    @property
    def tile_columns(self) -> int:
        return -(-self.core.width // MASK_TILE_PX)

    @property
    def tiles(self) -> int:
        return self.tile_columns * -(-self.core.height // MASK_TILE_PX)

    def nothing(self) -> Stitched:
        """The result before the first strip."""
        ids_HW = np.full(self.valid_HW.shape, nodata_value(self.classes), mask_dtype(self.classes))
        shape_TK = (self.tiles, self.classes)
        return Stitched(ids_HW, np.zeros(shape_TK, np.int64), np.zeros(shape_TK, np.int64))


class Blend(Protocol):
    """The blend of one block, on one kind of device."""

    def strip(self, rows: Segment, windows: Windows) -> None:
        """Blends these rows of the core. Windows without a valid pixel may be missing."""

    def close(self) -> Stitched:
        """The result, once every strip has been blended."""


MakeBlend = Callable[[Region], Blend]


class PlainBlend:
    """With torch's own operations, on any device."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._result = region.nothing()

    def strip(self, rows: Segment, windows: Windows) -> None:
        core = self._region.core
        height = slice(rows.start - core.row_off, rows.end - core.row_off)
        for columns in self._region.columns:
            width = slice(columns.start - core.col_off, columns.end - core.col_off)
            if self._region.valid_HW[height, width].any():
                self._rectangle(rows, columns, windows)

    def close(self) -> Stitched:
        return self._result

    def _rectangle(self, rows: Segment, columns: Segment, windows: Windows) -> None:
        step = max(1, _LIVE_VALUES // (self._region.classes * columns.length))
        count = rows.windows * columns.windows
        for first in range(0, rows.length, step):
            part = range(first, min(first + step, rows.length))
            total_KHW: torch.Tensor | None = None
            for group in columns.groups:
                narrow_KHw = _narrow(rows, part, group, windows)
                wide_KHW = _interpolated(narrow_KHw, 2, group.index, group.weight)
                total_KHW = wide_KHW if total_KHW is None else total_KHW + wide_KHW
            assert total_KHW is not None
            place = Rect(columns.start, rows.start + first, columns.length, len(part))
            self._decide(place, total_KHW, count)

    def _decide(self, rect: Rect, total_KHW: torch.Tensor, count: int) -> None:
        """Argmax into the mask, and the confidence of the sampled pixels."""
        core, result = self._region.core, self._result
        row, col = rect.row_off - core.row_off, rect.col_off - core.col_off
        here = np.s_[row : row + rect.height, col : col + rect.width]
        valid_HW = self._region.valid_HW[here]
        ids_HW = total_KHW.argmax(dim=0).cpu().numpy().astype(result.class_ids_HW.dtype)
        result.class_ids_HW[here][valid_HW] = ids_HW[valid_HW]

        first_row = (SAMPLE_AT - rect.row_off) % SAMPLE_STEP
        first_col = (SAMPLE_AT - rect.col_off) % SAMPLE_STEP
        sampled = np.s_[first_row::SAMPLE_STEP, first_col::SAMPLE_STEP]
        keep = valid_HW[sampled].ravel()
        if not keep.any():
            return
        quantised = winner_probability(total_KHW[:, *sampled].flatten(1), count).cpu().numpy()
        tile_rows = (row + np.arange(first_row, rect.height, SAMPLE_STEP)) // MASK_TILE_PX
        tile_cols = (col + np.arange(first_col, rect.width, SAMPLE_STEP)) // MASK_TILE_PX
        tiles = (tile_rows[:, None] * self._region.tile_columns + tile_cols).ravel()
        slots = tiles[keep], ids_HW[sampled].ravel()[keep]
        np.add.at(result.confidence_TK, slots, quantised[keep])
        np.add.at(result.samples_TK, slots, 1)


def _narrow(rows: Segment, part: range, columns: Group, windows: Windows) -> torch.Tensor:
    """Some pixel rows of a group of columns at the low resolution across, K x H x w."""
    total_KHw: torch.Tensor | None = None
    for group in rows.groups:
        index, weight = group.index[part.start : part.stop], group.weight[part.start : part.stop]
        offset = int(index[0])
        low_Khw: torch.Tensor | None = None
        for row, first_row in group.members:
            for col, first_col in columns.members:
                logits_Khw = windows[row, col]
                ys = first_row + np.arange(offset, int(index[-1]) + 2)
                xs = first_col + np.arange(columns.positions)
                part_Khw = _clamped(_clamped(logits_Khw, 1, ys), 2, xs)
                low_Khw = part_Khw if low_Khw is None else low_Khw + part_Khw
        assert low_Khw is not None
        tall_KHw = _interpolated(low_Khw, 1, index - offset, weight)
        total_KHw = tall_KHw if total_KHw is None else total_KHw + tall_KHw
    assert total_KHw is not None
    return total_KHw


def _clamped(logits_Khw: torch.Tensor, dim: int, index: np.ndarray) -> torch.Tensor:
    inside = torch.from_numpy(index.clip(0, logits_Khw.shape[dim] - 1))
    return logits_Khw.index_select(dim, inside.to(logits_Khw.device))


def _interpolated(
    values: torch.Tensor, dim: int, index: np.ndarray, weight: np.ndarray
) -> torch.Tensor:
    device = values.device
    at = torch.from_numpy(index).to(device)
    by = torch.from_numpy(weight).to(device)
    below = values.index_select(dim, at)
    step = values.index_select(dim, at + 1) - below
    return below + (by[:, None] if dim == 1 else by) * step


def winner_probability(total_KN: torch.Tensor, count: int) -> torch.Tensor:
    """Softmax of the mean of `count` windows at its maximum, out of CONFIDENCE_SCALE: int64 (N).

    total_KN: float32, the windows' sum. The classes are added in their order.
    """
    behind_KN = (total_KN - total_KN.amax(dim=0)) * float(np.float32(1 / count))
    total_N = torch.zeros_like(behind_KN[0])
    for behind_N in behind_KN:
        total_N = total_N + exponential(behind_N)
    scale_N = torch.full_like(total_N, CONFIDENCE_SCALE)  # number / tensor would round twice
    return (scale_N / total_N + 0.5).long()


def exponential(x: torch.Tensor) -> torch.Tensor:
    """exp() of float32 values up to 0, the same on every processor; relative error below 2e-7
    down to EXP_LEAST, and exp(EXP_LEAST) below it."""
    x = x.clamp_min(EXP_LEAST)
    power = (x * LOG2_E + ROUNDS) - ROUNDS
    rest = (x - power * LN2_HIGH) - power * LN2_LOW
    term = torch.full_like(x, EXP_TERMS[0])
    for coefficient in EXP_TERMS[1:]:
        term = term * rest + coefficient
    value = ((term * rest) * rest + rest) + 1
    return value * ((power.int() + 127) << 23).view(torch.float32)

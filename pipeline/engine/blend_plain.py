"""The blend in torch's own operations: the oracle of the compiled ones, and what devices without
one of them use.

Suffixes: K classes, H W pixels, h w positions.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.engine.bilinear import Span, WindowGroup
from pipeline.engine.blend import Region, Windows
from pipeline.engine.confidence import SAMPLE_AT, SAMPLE_STEP, winner_probability
from pipeline.scene import Rect
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Stitched

_LIVE_VALUES = 1 << 20
"""Upsampled values held at once: larger pieces leave the cache."""


class PlainBlend:
    """On any device that torch has."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._result = region.empty_result()

    def strip(self, rows: Span, windows: Windows) -> None:
        core = self._region.core
        height = slice(rows.start - core.row_off, rows.end - core.row_off)
        for columns in self._region.column_spans:
            width = slice(columns.start - core.col_off, columns.end - core.col_off)
            if self._region.valid_HW[height, width].any():
                self._rectangle(rows, columns, windows)

    def close(self) -> Stitched:
        return self._result

    def _rectangle(self, rows: Span, columns: Span, windows: Windows) -> None:
        """Blend a rectangle whose pixels are covered by the same windows, a few rows at once."""
        step = max(1, _LIVE_VALUES // (self._region.classes * columns.length))
        for first in range(0, rows.length, step):
            part = range(first, min(first + step, rows.length))
            total_KHW: torch.Tensor | None = None
            for group in columns.groups:
                tall_KHw = _between_rows(rows, part, group, windows)
                wide_KHW = _interpolated(tall_KHw, 2, group.index, group.weight)
                total_KHW = wide_KHW if total_KHW is None else total_KHW + wide_KHW
            assert total_KHW is not None
            rect = Rect(columns.start, rows.start + first, columns.length, len(part))
            self._decide(rect, total_KHW, rows.windows * columns.windows)

    def _decide(self, rect: Rect, total_KHW: torch.Tensor, windows: int) -> None:
        """Write the argmax to the mask, and add up the confidence of the sampled pixels."""
        core, result = self._region.core, self._result
        row, col = rect.row_off - core.row_off, rect.col_off - core.col_off
        within_core = np.s_[row : row + rect.height, col : col + rect.width]
        valid_HW = self._region.valid_HW[within_core]
        ids_HW = total_KHW.argmax(dim=0).cpu().numpy().astype(result.class_ids_HW.dtype)
        result.class_ids_HW[within_core][valid_HW] = ids_HW[valid_HW]

        first_row = (SAMPLE_AT - rect.row_off) % SAMPLE_STEP
        first_col = (SAMPLE_AT - rect.col_off) % SAMPLE_STEP
        sampled = np.s_[first_row::SAMPLE_STEP, first_col::SAMPLE_STEP]
        keep = valid_HW[sampled].ravel()
        if not keep.any():
            return
        quantised = winner_probability(total_KHW[:, *sampled].flatten(1), windows).cpu().numpy()
        tile_rows = (row + np.arange(first_row, rect.height, SAMPLE_STEP)) // MASK_TILE_PX
        tile_cols = (col + np.arange(first_col, rect.width, SAMPLE_STEP)) // MASK_TILE_PX
        tiles = (tile_rows[:, None] * self._region.tile_columns + tile_cols).ravel()
        slots = tiles[keep], ids_HW[sampled].ravel()[keep]
        np.add.at(result.confidence_TK, slots, quantised[keep])
        np.add.at(result.samples_TK, slots, 1)


def _between_rows(rows: Span, part: range, columns: WindowGroup, windows: Windows) -> torch.Tensor:
    """Some pixel rows of a group of columns, not yet interpolated across: K x H x w."""
    total_KHw: torch.Tensor | None = None
    for group in rows.groups:
        index, weight = group.index[part.start : part.stop], group.weight[part.start : part.stop]
        offset = int(index[0])
        sum_Khw: torch.Tensor | None = None
        for row, first_row in group.members:
            for col, first_col in columns.members:
                logits_Khw = windows[row, col]
                ys = first_row + np.arange(offset, int(index[-1]) + 2)
                xs = first_col + np.arange(columns.positions)
                part_Khw = _clamped(_clamped(logits_Khw, 1, ys), 2, xs)
                sum_Khw = part_Khw if sum_Khw is None else sum_Khw + part_Khw
        assert sum_Khw is not None
        tall_KHw = _interpolated(sum_Khw, 1, index - offset, weight)
        total_KHw = tall_KHw if total_KHw is None else total_KHw + tall_KHw
    assert total_KHw is not None
    return total_KHw


def _clamped(logits_Khw: torch.Tensor, dim: int, index: np.ndarray) -> torch.Tensor:
    """The logits at these positions, those beyond an edge taken from it."""
    inside = torch.from_numpy(index.clip(0, logits_Khw.shape[dim] - 1))
    return logits_Khw.index_select(dim, inside.to(logits_Khw.device))


def _interpolated(
    values: torch.Tensor, dim: int, index: np.ndarray, weight: np.ndarray
) -> torch.Tensor:
    """The values at `index`, and `weight` of the way to those at `index + 1`."""
    device = values.device
    at = torch.from_numpy(index).to(device)
    by = torch.from_numpy(weight).to(device)
    below = values.index_select(dim, at)
    step = values.index_select(dim, at + 1) - below
    return below + (by[:, None] if dim == 1 else by) * step

"""Exact blend of overlapping windows: quarter-resolution logits to class ids.

The reference definition upsamples every window's logits to full resolution, adds them up, divides
by the count and takes the argmax. Upsampling is linear, so where the set of covering windows is
constant their logits can be added at a quarter of the resolution and upsampled once; the argmax
needs no division. Every operation is an elementwise multiplication or addition in a fixed order,
hence bit-equal however a scene is cut into blocks.

Knows neither pixels nor the network. Suffixes: K classes, H W full resolution, h w a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pipeline.grid import WindowGrid
from pipeline.scene import Rect
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import CONFIDENCE_SCALE, Stitched, mask_dtype, nodata_value

_LIVE_VALUES = 1 << 20
"""Upsampled values held at once: larger pieces leave the cache."""
_EXP_CHUNK = 1 << 14
"""A multiple of every vector width and below torch's parallel grain, so that exp() takes the same
code path for every element."""


class Stitcher:
    """Takes the windows of one block in row-major order and keeps only the live rows of them."""

    def __init__(self, grid: WindowGrid, core: Rect, valid_HW: np.ndarray, num_classes: int):
        """valid_HW: bool, of the core. Windows without a valid pixel need not be added."""
        self._grid = grid
        self._core = core
        self._valid_HW = valid_HW
        self._classes = num_classes
        self._window = grid.rows.window_px
        self._live: dict[tuple[int, int], torch.Tensor] = {}
        self._row_cuts = grid.rows.cuts(core.row_off, core.row_end)
        self._col_cuts = grid.cols.cuts(core.col_off, core.col_end)
        self._next_strip = 0
        shape_HW = (core.height, core.width)
        self._ids_HW = np.full(shape_HW, nodata_value(num_classes), mask_dtype(num_classes))
        self._tile_cols = -(-core.width // MASK_TILE_PX)
        tiles = self._tile_cols * -(-core.height // MASK_TILE_PX)
        self._confidence = np.zeros(tiles * num_classes, np.int64)
        self._samples = np.zeros(tiles * num_classes, np.int64)

    def add(self, row: int, col: int, logits_Khw: torch.Tensor) -> None:
        """float32 logits of the window at this place of the grid, at a quarter of its size."""
        self._blend_before(row)
        self._live[row, col] = logits_Khw

    def close(self) -> Stitched:
        """Blends what is left once all windows have been added."""
        self._blend_before(self._grid.rows.count)
        shape_TK = (-1, self._classes)
        return Stitched(
            self._ids_HW, self._confidence.reshape(shape_TK), self._samples.reshape(shape_TK)
        )

    def _blend_before(self, row: int) -> None:
        """Blends the strips that no window of this row or a later one touches."""
        while self._next_strip < len(self._row_cuts) - 1:
            top, bottom = self._row_cuts[self._next_strip : self._next_strip + 2]
            rows = self._grid.rows.touching(top, bottom)
            if rows[-1] >= row:
                return
            for key in [key for key in self._live if key[0] < rows[0]]:
                del self._live[key]
            for left, right in pairwise(self._col_cuts):
                self._blend(Rect(left, top, right - left, bottom - top), rows)
            self._next_strip += 1

    def _blend(self, rect: Rect, rows: range) -> None:
        """One rectangle over which the set of covering windows is constant."""
        in_core = np.s_[
            rect.row_off - self._core.row_off : rect.row_end - self._core.row_off,
            rect.col_off - self._core.col_off : rect.col_end - self._core.col_off,
        ]
        if not self._valid_HW[in_core].any():
            return
        cols = self._grid.cols.touching(rect.col_off, rect.col_end)
        step = max(1, _LIVE_VALUES // (self._classes * rect.width))
        for row in range(rect.row_off, rect.row_end, step):
            height = min(step, rect.row_end - row)
            part = Rect(rect.col_off, row, rect.width, height)
            self._decide(part, self._sum_of(part, rows, cols), len(rows) * len(cols))

    def _sum_of(self, rect: Rect, rows: range, cols: range) -> torch.Tensor:
        """The sum of the covering windows' logits over the rectangle, K x H x W float32.

        Windows whose origins differ by whole low-resolution pixels share their sampling
        positions and are added before upsampling; others are upsampled apart.
        """
        groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
        low = self._live[rows[0], cols[0]].shape[1]
        whole = self._window // low if self._window % low == 0 else None
        for row in rows:
            for col in cols:
                y, x = self._grid.rows.origin(row), self._grid.cols.origin(col)
                phase = (y % whole, x % whole) if whole else (y, x)
                groups.setdefault(phase, []).append((row, col))
        total: torch.Tensor | None = None
        for members in groups.values():
            upsampled = self._upsample(rect, members)
            total = upsampled if total is None else total + upsampled
        assert total is not None
        return total

    def _upsample(self, rect: Rect, members: list[tuple[int, int]]) -> torch.Tensor:
        low: torch.Tensor | None = None
        for row, col in members:
            logits_Khw = self._live[row, col]
            h, w = logits_Khw.shape[1:]
            device = logits_Khw.device
            ys = _taps(rect.row_off - self._grid.rows.origin(row), rect.height, self._window, h)
            xs = _taps(rect.col_off - self._grid.cols.origin(col), rect.width, self._window, w)
            part = logits_Khw[:, ys.low : ys.high, xs.low : xs.high]
            part = _replicate(part, ys, xs)
            low = part if low is None else low + part
        assert low is not None
        x, x_weight, x_rest = xs.tensors(device)
        y, y_weight, y_rest = ys.tensors(device)
        wide_KhW = low[:, :, x] * x_rest + low[:, :, x + 1] * x_weight
        return wide_KhW[:, y] * y_rest[:, None] + wide_KhW[:, y + 1] * y_weight[:, None]

    def _decide(self, rect: Rect, total_KHW: torch.Tensor, count: int) -> None:
        """Argmax into the mask, and the confidence of the sampled pixels."""
        row, col = rect.row_off - self._core.row_off, rect.col_off - self._core.col_off
        here = np.s_[row : row + rect.height, col : col + rect.width]
        valid_HW = self._valid_HW[here]
        ids_HW = total_KHW.argmax(dim=0).cpu().numpy().astype(self._ids_HW.dtype)
        self._ids_HW[here][valid_HW] = ids_HW[valid_HW]

        first_row, first_col = (2 - rect.row_off) % 4, (2 - rect.col_off) % 4
        sampled = np.s_[first_row::4, first_col::4]
        logits_KHW = total_KHW[:, first_row::4, first_col::4]
        if not logits_KHW.numel() or not valid_HW[sampled].any():
            return
        quantised = _winner_probability(logits_KHW.flatten(1), count)
        keep = valid_HW[sampled].ravel()
        tile_rows = (row + np.arange(first_row, rect.height, 4)) // MASK_TILE_PX
        tile_cols = (col + np.arange(first_col, rect.width, 4)) // MASK_TILE_PX
        tiles = (tile_rows[:, None] * self._tile_cols + tile_cols).ravel()
        slots = (tiles * self._classes + ids_HW[sampled].ravel())[keep]
        np.add.at(self._confidence, slots, quantised[keep])
        np.add.at(self._samples, slots, 1)


@dataclass(frozen=True)
class _Taps:
    """Where consecutive pixels of one direction sample a window's low-resolution logits."""

    low: int
    high: int
    """The slice of the window that is touched, within the window."""
    before: int
    after: int
    """Replicated border: align_corners=False clamps at the window's own edge."""
    index: np.ndarray
    weight: np.ndarray
    """int64 and float32: pixel = slice[index] * (1 - weight) + slice[index + 1] * weight."""

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        weight = torch.from_numpy(self.weight).to(device)
        rest = torch.from_numpy(np.float32(1) - self.weight).to(device)
        return torch.from_numpy(self.index).to(device), weight, rest


def _taps(start: int, length: int, window: int, low_size: int) -> _Taps:
    """Pixel y of a window samples (y + 0.5) * low_size / window - 0.5, as in F.interpolate."""
    source = (np.arange(start, start + length) + 0.5) * (low_size / window) - 0.5
    floor = np.floor(source)
    index = floor.astype(np.int64)
    first, last = int(index[0]), int(index[-1]) + 2
    return _Taps(
        low=max(first, 0),
        high=min(last, low_size),
        before=max(-first, 0),
        after=max(last - low_size, 0),
        index=index - first,
        weight=(source - floor).astype(np.float32),
    )


def _replicate(part_Khw: torch.Tensor, ys: _Taps, xs: _Taps) -> torch.Tensor:
    if not (ys.before or ys.after or xs.before or xs.after):
        return part_Khw
    border = (xs.before, xs.after, ys.before, ys.after)
    return torch.nn.functional.pad(part_Khw[None], border, mode="replicate")[0]


def _winner_probability(total_KN: torch.Tensor, count: int) -> np.ndarray:
    """Softmax of the mean logits at its maximum, as integers out of CONFIDENCE_SCALE.

    float64, class by class: the sum has one order and no vector tail.
    """
    mean_KN = total_KN.double() / count
    mean_KN = mean_KN - mean_KN.amax(dim=0)
    pieces = []
    for piece_KN in mean_KN.split(_EXP_CHUNK, dim=1):
        length = piece_KN.shape[1]
        whole_KN = torch.nn.functional.pad(piece_KN, (0, -length % 64))
        total_N = torch.zeros_like(whole_KN[0])
        for logits_N in whole_KN:
            total_N += logits_N.exp()
        pieces.append((CONFIDENCE_SCALE / total_N[:length]).round().long())
    return torch.cat(pieces).cpu().numpy()

"""The blend as a Triton kernel, for CUDA devices: the windows' logits stay there; class ids and the
statistics of mask tiles come back. No GPU has run this path yet, only Triton's interpreter.

A program decides some pixels of one row, class by class, with the operations of `blend.py` in their
order; none of them are fused, so that the bits are the same.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types of kernels.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from pipeline.blend import (
    EXP_LEAST,
    EXP_TERMS,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    ROUNDS,
    SAMPLE_AT,
    SAMPLE_STEP,
    Region,
    Windows,
)
from pipeline.lattice import Segment
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import CONFIDENCE_SCALE, Stitched

PIXELS = 128
"""Of a program."""

_LEAST, _LOG2_E, _ROUNDS = map(tl.constexpr, (EXP_LEAST, LOG2_E, ROUNDS))
_LN2_HIGH, _LN2_LOW = map(tl.constexpr, (LN2_HIGH, LN2_LOW))
_E0, _E1, _E2, _E3, _E4, _E5 = map(tl.constexpr, EXP_TERMS)
_SCALE, _TILE = map(tl.constexpr, (float(CONFIDENCE_SCALE), MASK_TILE_PX))


@dataclass(frozen=True)
class _Pixels:
    """Which columns the programs of a launch decide, on the device."""

    tiles: torch.Tensor
    """int64 (programs of a row, 4): first column of the core, the one past the last, groups from,
    to."""
    windows: np.ndarray
    """int64 (programs of a row): that cover these columns."""
    step: int
    at: int
    """The scene's rows and columns that leave `at` when divided by `step`."""


class TritonBlend:
    """On a CUDA device, or by the interpreter where the windows are on the CPU."""

    def __init__(self, region: Region, device: str = "cuda") -> None:
        self._region, self._device = region, torch.device(device)
        self._valid_HW = self._put(region.valid_HW.view(np.uint8))
        nothing = region.nothing()
        self._ids_HW = self._put(nothing.class_ids_HW)
        self._confidence_TK = self._put(nothing.confidence_TK)
        self._samples_TK = self._put(nothing.samples_TK)
        self._columns, self._column_weights = self._tables(region.columns)
        self._launches = self._pixels(1, 0), self._pixels(SAMPLE_STEP, SAMPLE_AT)

    def strip(self, rows: Segment, windows: Windows) -> None:
        region, core = self._region, self._region.core
        kept, addresses = self._addresses(rows, windows)
        table, weights = self._tables([rows], addresses)
        for pixels in self._launches:
            first = (pixels.at - rows.start) % pixels.step
            count = len(range(first, rows.length, pixels.step))
            if not count or not len(pixels.tiles):
                continue
            shares = self._put((1 / (rows.windows * pixels.windows)).astype(np.float32))
            _decide[len(pixels.tiles), count](
                *(table, weights, self._columns, self._column_weights, pixels.tiles, shares),
                *(self._valid_HW, self._ids_HW, self._confidence_TK, self._samples_TK),
                *(region.classes, core.width, rows.start - core.row_off, first),
                step=pixels.step,
                pixels=PIXELS,
                enable_fp_fusion=False,
            )
        del kept

    def close(self) -> Stitched:
        parts = self._ids_HW, self._confidence_TK, self._samples_TK
        return Stitched(*(part.cpu().numpy() for part in parts))

    def _put(self, values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values, device=self._device)

    def _pixels(self, step: int, at: int) -> _Pixels:
        tiles, windows, group = [], [], 0
        left = self._region.core.col_off
        for segment in self._region.columns:
            groups = group, group + len(segment.groups)
            first = segment.start + (at - segment.start) % step
            for x in range(first, segment.end, step * PIXELS):
                tiles.append((x - left, segment.end - left, *groups))
                windows.append(segment.windows)
            group = groups[1]
        return _Pixels(self._put(np.array(tiles).reshape(-1, 4)), np.array(windows), step, at)

    def _addresses(
        self, rows: Segment, windows: Windows
    ) -> tuple[list[torch.Tensor], list[tuple[int, int, int]]]:
        """What the addresses lead to; of each window of the strip, row by row: where its logits
        are, and how far it is there from class to class and from row to row, in values."""
        indices = [row for group in rows.groups for row, _ in group.members]
        missing = torch.zeros(self._region.low, device=self._device)
        kept, table = [missing], []
        for row in range(min(indices), max(indices) + 1):
            for col in self._region.windows:
                if (row, col) not in windows:
                    table.append((missing.data_ptr(), 0, 0))
                    continue
                given_Khw = windows[row, col]
                logits_Khw = given_Khw if given_Khw.stride(2) == 1 else given_Khw.contiguous()
                kept.append(logits_Khw)
                table.append((logits_Khw.data_ptr(), logits_Khw.stride(0), logits_Khw.stride(1)))
        return kept, table

    def _tables(
        self, segments: Sequence[Segment], addresses: Sequence[tuple[int, int, int]] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How the pixels of an axis sample, from the first segment's start on. int64: where
        members, groups, indices and addresses begin, how many groups there are, how many positions
        a window has and how many columns of windows there are; then these. float32: the weights."""
        groups: list[tuple[int, int, int]] = []
        members: list[tuple[int, int]] = []
        pixels = 0
        for segment in segments:
            for group in segment.groups:
                first = pixels - (segment.start - segments[0].start)
                groups.append((len(members), len(members) + len(group.members), first))
                members += group.members
                pixels += segment.length
        every = [group for segment in segments for group in segment.groups]
        parts = [
            np.array(members) - np.array((min(window for window, _ in members), 0)),
            np.array(groups),
            np.concatenate([group.index for group in every]),
            np.array(addresses, np.int64),
        ]
        begins = 7 + np.cumsum([0, *(part.size for part in parts[:-1])])
        head = np.array([*begins, len(groups), self._region.low, len(self._region.windows)])
        table = np.concatenate([head, *(part.ravel() for part in parts)])
        weights = np.concatenate([group.weight for group in every])
        return self._put(table), self._put(weights)


# What changes from launch to launch must not make Triton compile anew in the middle of a job.
@triton.jit(do_not_specialize=["classes", "width", "top", "first"])
def _decide(  # noqa: PLR0913, PLR0917  a kernel's arguments are pointers and numbers
    rows,
    row_weights,
    columns,
    column_weights,
    tiles,
    shares,
    valid,
    out_ids,
    out_confidence,
    out_samples,
    classes,
    width,
    top,
    first,
    step: tl.constexpr,
    pixels: tl.constexpr,
):
    """Every pixel's class id (step 1), or the statistics of the sampled ones."""
    tile = tiles + 4 * tl.program_id(0)
    y = first + step * tl.program_id(1)
    x = tl.load(tile) + step * tl.arange(0, pixels).to(tl.int64)
    inside = x < tl.load(tile + 1)
    groups_from, groups_to = tl.load(tile + 2), tl.load(tile + 3)
    best = tl.full([pixels], float("-inf"), tl.float32)
    ids = tl.zeros([pixels], tl.int32)
    for k in range(classes):
        value = _value(
            rows, row_weights, columns, column_weights, k, y, x, inside, groups_from, groups_to
        )
        better = value > best
        best = tl.where(better, value, best)
        ids = tl.where(better, k, ids)
    at = (top + y).to(tl.int64) * width + x
    counts = inside & (tl.load(valid + at, mask=inside, other=0) != 0)
    if step == 1:
        tl.store(out_ids + at, ids.to(out_ids.dtype.element_ty), mask=counts)
    else:
        share = tl.load(shares + tl.program_id(0))
        sums = tl.zeros([pixels], tl.float32)
        for k in range(classes):
            value = _value(
                rows, row_weights, columns, column_weights, k, y, x, inside, groups_from, groups_to
            )
            sums += _exponential((value - best) * share)
        probability = tl.div_rn(tl.full([pixels], _SCALE, tl.float32), sums)
        across = (width + _TILE - 1) // _TILE
        slot = ((top + y) // _TILE * across + x // _TILE) * classes + ids
        tl.atomic_add(out_confidence + slot, (probability + 0.5).to(tl.int64), mask=counts)
        tl.atomic_add(out_samples + slot, tl.full([pixels], 1, tl.int64), mask=counts)


@triton.jit
def _value(  # noqa: PLR0913, PLR0917
    rows, row_weights, columns, column_weights, k, y, x, inside, groups_from, groups_to
):
    """The pixels' value for class k."""
    total = tl.zeros_like(x).to(tl.float32)
    for group in range(groups_from, groups_to):
        column = columns + tl.load(columns + 1) + 3 * group
        at = tl.load(column + 2) + x
        index = tl.load(columns + tl.load(columns + 2) + at, mask=inside, other=0)
        weight = tl.load(column_weights + at, mask=inside, other=0)
        left = _between_rows(rows, row_weights, columns, column, k, y, index)
        right = _between_rows(rows, row_weights, columns, column, k, y, index + 1)
        total += left + weight * (right - left)
    return total


@triton.jit
def _between_rows(rows, row_weights, columns, column, k, y, position):
    """At positions of a group of columns."""
    total = tl.zeros_like(position).to(tl.float32)
    for group in range(tl.load(rows + 4)):
        row = rows + tl.load(rows + 1) + 3 * group
        at = tl.load(row + 2) + y
        index = tl.load(rows + tl.load(rows + 2) + at)
        above = _added(rows, row, columns, column, k, index, position)
        below = _added(rows, row, columns, column, k, index + 1, position)
        total += above + tl.load(row_weights + at) * (below - above)
    return total


@triton.jit
def _added(rows, row, columns, column, k, y_position, x_position):
    """The windows of a group of rows and a group of columns, clamped at their own edges."""
    last = tl.load(rows + 5) - 1
    total = tl.zeros_like(x_position).to(tl.float32)
    for i in range(tl.load(row), tl.load(row + 1)):
        row_member = rows + tl.load(rows) + 2 * i
        y = tl.minimum(tl.maximum(tl.load(row_member + 1) + y_position, 0), last)
        for j in range(tl.load(column), tl.load(column + 1)):
            column_member = columns + tl.load(columns) + 2 * j
            x = tl.minimum(tl.maximum(tl.load(column_member + 1) + x_position, 0), last)
            place = tl.load(row_member) * tl.load(rows + 6) + tl.load(column_member)
            window = rows + tl.load(rows + 3) + 3 * place
            logits = tl.load(window).to(tl.pointer_type(tl.float32))
            total += tl.load(logits + k * tl.load(window + 1) + y * tl.load(window + 2) + x)
    return total


@triton.jit
def _exponential(x):
    """As blend.exponential."""
    x = tl.maximum(x, _LEAST)
    power = (x * _LOG2_E + _ROUNDS) - _ROUNDS
    rest = (x - power * _LN2_HIGH) - power * _LN2_LOW
    term = ((((_E0 * rest + _E1) * rest + _E2) * rest + _E3) * rest + _E4) * rest + _E5
    value = ((term * rest) * rest + rest) + 1.0
    return value * ((power.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)

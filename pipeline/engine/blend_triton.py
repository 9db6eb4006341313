"""The Triton kernels of the blend.

First the windows that cover a strip are added where the network has its positions, into sums K Y X:
`sum_windows`. Then a program of `decide` takes some pixels of one row, class by class. Both do the
operations of `blend.py` in their order; none of them are fused, so that the bits are the same.
`blend_cuda_tables.py` makes the tables and has the legend to their slots.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types.

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.engine.blend_cuda_tables import (
    ADDRESS,
    ADDRESSES,
    CLASS_STEP,
    COLUMN_INDICES,
    COLUMN_MEMBERS,
    COLUMN_OFFSETS,
    GROUP_START,
    GROUPS,
    INDICES,
    MEMBER,
    MEMBERS,
    PIXEL_END,
    PIXEL_GROUPS,
    PIXEL_GROUPS_END,
    PIXEL_START,
    PIXEL_TILE,
    PIXELS,
    POSITION,
    ROW_MEMBERS,
    ROW_MEMBERS_END,
    ROW_POSITION,
    ROW_STEP,
    SUM_END,
    SUM_MEMBERS,
    SUM_MEMBERS_END,
    SUM_ROW,
    SUM_ROWS,
    SUM_START,
    SUM_TILE,
    WINDOW,
    WINDOW_LOGITS,
)
from pipeline.engine.confidence import (
    EXP_TERMS,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    MIN_EXPONENT,
    ROUNDING,
)
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import CONFIDENCE_SCALE

_MIN_EXPONENT, _LOG2_E, _ROUNDING = map(tl.constexpr, (MIN_EXPONENT, LOG2_E, ROUNDING))
_LN2_HIGH, _LN2_LOW = map(tl.constexpr, (LN2_HIGH, LN2_LOW))
_E0, _E1, _E2, _E3, _E4, _E5 = map(tl.constexpr, EXP_TERMS)
_SCALE, _TILE = map(tl.constexpr, (float(CONFIDENCE_SCALE), MASK_TILE_PX))


# What changes from launch to launch must not make Triton compile again in the middle of a job.
@triton.jit(do_not_specialize=["classes", "logits_edge", "window_cols", "width", "height"])
def sum_windows(  # noqa: PLR0913, PLR0917  a kernel's arguments are pointers and numbers
    strip,
    columns,
    tiles,
    sums,
    classes,
    logits_edge,
    window_cols,
    width,
    height,
    program_positions: tl.constexpr,
    program_classes: tl.constexpr,
):
    """Some positions of one row Y of the sums, of some classes: the windows of its group of rows
    and their group of columns added, row by row, clamped at their own edges.

    strip, columns, tiles: the tables. width and height: of the sums.
    """
    tile = tiles + SUM_TILE * tl.program_id(0)
    row = strip + tl.load(strip + SUM_ROWS) + SUM_ROW * tl.program_id(1)
    k = tl.program_id(2) * program_classes + tl.arange(0, program_classes)
    x = tl.load(tile + SUM_START) + tl.arange(0, program_positions).to(tl.int64)
    inside = (k < classes)[:, None] & (x < tl.load(tile + SUM_END))[None, :]
    at_x, at_y = x - tl.load(tile + GROUP_START), tl.load(row + ROW_POSITION)
    total = tl.zeros([program_classes, program_positions], tl.float32)
    for i in range(tl.load(row + ROW_MEMBERS), tl.load(row + ROW_MEMBERS_END)):
        row_member = strip + tl.load(strip + MEMBERS) + MEMBER * i
        window_y = tl.load(row_member + POSITION) + at_y
        window_y = tl.minimum(tl.maximum(window_y, 0), logits_edge - 1)
        for j in range(tl.load(tile + SUM_MEMBERS), tl.load(tile + SUM_MEMBERS_END)):
            column_member = columns + tl.load(columns + COLUMN_MEMBERS) + MEMBER * j
            window_x = tl.load(column_member + POSITION) + at_x
            window_x = tl.minimum(tl.maximum(window_x, 0), logits_edge - 1)
            place = tl.load(row_member + WINDOW) * window_cols + tl.load(column_member + WINDOW)
            window = strip + tl.load(strip + ADDRESSES) + WINDOW_LOGITS * place
            logits = tl.load(window + ADDRESS).to(tl.pointer_type(tl.float32))
            class_start = k[:, None] * tl.load(window + CLASS_STEP)
            row_start = class_start + window_y * tl.load(window + ROW_STEP)
            total += tl.load(logits + row_start + window_x[None, :], mask=inside, other=0)
    to = sums + (k.to(tl.int64)[:, None] * height + tl.program_id(1)) * width + x[None, :]
    tl.store(to, total, mask=inside)


@triton.jit(do_not_specialize=["classes", "width", "height", "core_width", "top", "first"])
def decide(  # noqa: PLR0913, PLR0917
    strip,
    row_weights,
    columns,
    column_weights,
    tiles,
    shares,
    sums,
    valid,
    out_ids,
    out_confidence,
    out_samples,
    classes,
    width,
    height,
    core_width,
    top,
    first,
    step: tl.constexpr,
    single: tl.constexpr,
    program_pixels: tl.constexpr,
):
    """Every pixel's class id (step 1), or the statistics of the sampled ones.

    strip, columns, tiles: the tables. shares: 1 / windows that cover a tile's pixels. width and
    height: of the sums. top: the strip's first row in the core; first: the first sampled row of the
    strip. single: there is one group of rows and one of columns.
    """
    tile = tiles + PIXEL_TILE * tl.program_id(0)
    y = first + step * tl.program_id(1)
    x = tl.load(tile + PIXEL_START) + step * tl.arange(0, program_pixels).to(tl.int64)
    inside = x < tl.load(tile + PIXEL_END)
    group, groups_end = tl.load(tile + PIXEL_GROUPS), tl.load(tile + PIXEL_GROUPS_END)
    # Beyond the tile, read any place that exists.
    x_read = tl.where(inside, x, tl.load(tile + PIXEL_START))
    best = tl.full([program_pixels], float("-inf"), tl.float32)
    ids = tl.zeros([program_pixels], tl.int32)
    size = tl.cast(width, tl.int64) * height
    corner, row_weight, weight = _corner(
        strip, row_weights, columns, column_weights, width, y, x_read, group
    )
    for k in range(classes):
        if single:
            value = _interpolated(sums + k * size + corner, width, row_weight, weight)
        else:
            value = _added_groups(
                *(strip, row_weights, columns, column_weights, sums + k * size, width, y, x_read),
                *(group, groups_end),
            )
        better = value > best
        best = tl.where(better, value, best)
        ids = tl.where(better, k, ids)
    at = (top + y).to(tl.int64) * core_width + x
    counts = inside & (tl.load(valid + at, mask=inside, other=0) != 0)
    if step == 1:
        tl.store(out_ids + at, ids.to(out_ids.dtype.element_ty), mask=counts)
    else:
        share = tl.load(shares + tl.program_id(0))
        total = tl.zeros([program_pixels], tl.float32)
        for k in range(classes):
            if single:
                value = _interpolated(sums + k * size + corner, width, row_weight, weight)
            else:
                value = _added_groups(
                    *(strip, row_weights, columns, column_weights, sums + k * size, width, y),
                    *(x_read, group, groups_end),
                )
            total += _exponential((value - best) * share)
        probability = tl.div_rn(tl.full([program_pixels], _SCALE, tl.float32), total)
        tile_columns = (core_width + _TILE - 1) // _TILE
        slot = ((top + y) // _TILE * tile_columns + x // _TILE) * classes + ids
        tl.atomic_add(out_confidence + slot, (probability + 0.5).to(tl.int64), mask=counts)
        tl.atomic_add(out_samples + slot, tl.full([program_pixels], 1, tl.int64), mask=counts)


@triton.jit
def _corner(  # noqa: PLR0913, PLR0917
    strip, row_weights, columns, column_weights, width, y, x, group
):
    """Where the pixels sample in the first group of rows and a group of columns: the place in the
    sums of one class, and the weights of the next row and the next column."""
    at = tl.load(columns + tl.load(columns + COLUMN_OFFSETS) + group) + x
    index_x = tl.load(columns + tl.load(columns + COLUMN_INDICES) + at)
    weight = tl.load(column_weights + at)
    index_y = tl.load(strip + tl.load(strip + INDICES) + y)
    return index_y * width + index_x, tl.load(row_weights + y), weight


@triton.jit
def _interpolated(corner, width, row_weight, weight):
    """The value of one class, interpolated between rows, then between columns."""
    above_left, above_right = tl.load(corner), tl.load(corner + 1)
    below_left, below_right = tl.load(corner + width), tl.load(corner + width + 1)
    left = above_left + row_weight * (below_left - above_left)
    right = above_right + row_weight * (below_right - above_right)
    return left + weight * (right - left)


@triton.jit
def _added_groups(  # noqa: PLR0913, PLR0917
    strip, row_weights, columns, column_weights, sums, width, y, x, group, groups_end
):
    """The same for several groups: those of rows added, then interpolated between columns, then
    those of columns added."""
    total = tl.zeros_like(x).to(tl.float32)
    for column_group in range(group, groups_end):
        at = tl.load(columns + tl.load(columns + COLUMN_OFFSETS) + column_group) + x
        index = tl.load(columns + tl.load(columns + COLUMN_INDICES) + at)
        left = tl.zeros_like(total)
        right = tl.zeros_like(total)
        for row_group in range(tl.load(strip + GROUPS)):
            at_row = row_group * tl.load(strip + PIXELS) + y
            row = sums + tl.load(strip + tl.load(strip + INDICES) + at_row) * width + index
            row_weight = tl.load(row_weights + at_row)
            above, below = tl.load(row), tl.load(row + width)
            left += above + row_weight * (below - above)
            above, below = tl.load(row + 1), tl.load(row + 1 + width)
            right += above + row_weight * (below - above)
        total += left + tl.load(column_weights + at) * (right - left)
    return total


@triton.jit
def _exponential(x):
    """As confidence.exponential."""
    x = tl.maximum(x, _MIN_EXPONENT)
    power = (x * _LOG2_E + _ROUNDING) - _ROUNDING
    rest = (x - power * _LN2_HIGH) - power * _LN2_LOW
    term = ((((_E0 * rest + _E1) * rest + _E2) * rest + _E3) * rest + _E4) * rest + _E5
    value = ((term * rest) * rest + rest) + 1.0
    return value * ((power.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)

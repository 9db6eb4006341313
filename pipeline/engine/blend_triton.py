"""The Triton kernels of the blend.

First the windows that cover a strip are added where the network has its positions, into sums K Y X:
`sum_windows`. Then a program of `decide` takes some pixels of one row, class by class. Both do the
operations of `blend.py` in their order; none of them are fused, so that the bits are the same.
`blend_cuda.py` says what the tables hold.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types.

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.engine.blend import EXP_LEAST, EXP_TERMS, LN2_HIGH, LN2_LOW, LOG2_E, ROUNDS
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import CONFIDENCE_SCALE

_LEAST, _LOG2_E, _ROUNDS = map(tl.constexpr, (EXP_LEAST, LOG2_E, ROUNDS))
_LN2_HIGH, _LN2_LOW = map(tl.constexpr, (LN2_HIGH, LN2_LOW))
_E0, _E1, _E2, _E3, _E4, _E5 = map(tl.constexpr, EXP_TERMS)
_SCALE, _TILE = map(tl.constexpr, (float(CONFIDENCE_SCALE), MASK_TILE_PX))


# What changes from launch to launch must not make Triton compile anew in the middle of a job.
@triton.jit(do_not_specialize=["classes", "low", "across", "width", "height"])
def sum_windows(  # noqa: PLR0913, PLR0917  a kernel's arguments are pointers and numbers
    rows,
    columns,
    tiles,
    sums,
    classes,
    low,
    across,
    width,
    height,
    positions: tl.constexpr,
    some: tl.constexpr,
):
    """Some positions of one row Y, of some classes: the windows of its group of rows and their
    group of columns added, row by row, clamped at their own edges. low: positions of a window;
    across: columns of windows; width and height: of the sums."""
    tile = tiles + 5 * tl.program_id(0)
    row = rows + tl.load(rows + 1) + 3 * tl.program_id(1)
    k = tl.program_id(2) * some + tl.arange(0, some)
    x = tl.load(tile) + tl.arange(0, positions).to(tl.int64)
    inside = (k < classes)[:, None] & (x < tl.load(tile + 1))[None, :]
    at_x, at_y = x - tl.load(tile + 2), tl.load(row + 2)
    total = tl.zeros([some, positions], tl.float32)
    for i in range(tl.load(row), tl.load(row + 1)):
        row_member = rows + tl.load(rows) + 2 * i
        window_y = tl.minimum(tl.maximum(tl.load(row_member + 1) + at_y, 0), low - 1)
        for j in range(tl.load(tile + 3), tl.load(tile + 4)):
            column_member = columns + tl.load(columns) + 2 * j
            window_x = tl.minimum(tl.maximum(tl.load(column_member + 1) + at_x, 0), low - 1)
            place = tl.load(row_member) * across + tl.load(column_member)
            window = rows + tl.load(rows + 3) + 3 * place
            logits = tl.load(window).to(tl.pointer_type(tl.float32))
            at = k[:, None] * tl.load(window + 1) + window_y * tl.load(window + 2)
            total += tl.load(logits + at + window_x[None, :], mask=inside, other=0)
    to = sums + (k.to(tl.int64)[:, None] * height + tl.program_id(1)) * width + x[None, :]
    tl.store(to, total, mask=inside)


@triton.jit(do_not_specialize=["classes", "width", "height", "core_width", "top", "first"])
def decide(  # noqa: PLR0913, PLR0917
    rows,
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
    pixels: tl.constexpr,
):
    """Every pixel's class id (step 1), or the statistics of the sampled ones. single: there is one
    group of rows and one of columns. width and height: of the sums."""
    tile = tiles + 4 * tl.program_id(0)
    y = first + step * tl.program_id(1)
    x = tl.load(tile) + step * tl.arange(0, pixels).to(tl.int64)
    inside = x < tl.load(tile + 1)
    groups_from, groups_to = tl.load(tile + 2), tl.load(tile + 3)
    # Beyond the tile: any place that is there.
    x_known = tl.where(inside, x, tl.load(tile))
    best = tl.full([pixels], float("-inf"), tl.float32)
    ids = tl.zeros([pixels], tl.int32)
    size = tl.cast(width, tl.int64) * height
    corner, row_weight, weight = _corner(
        rows, row_weights, columns, column_weights, width, y, x_known, groups_from
    )
    for k in range(classes):
        if single:
            value = _between(sums + k * size + corner, width, row_weight, weight)
        else:
            value = _groups(
                *(rows, row_weights, columns, column_weights, sums + k * size, width, y, x_known),
                *(groups_from, groups_to),
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
        total = tl.zeros([pixels], tl.float32)
        for k in range(classes):
            if single:
                value = _between(sums + k * size + corner, width, row_weight, weight)
            else:
                value = _groups(
                    *(rows, row_weights, columns, column_weights, sums + k * size, width, y),
                    *(x_known, groups_from, groups_to),
                )
            total += _exponential((value - best) * share)
        probability = tl.div_rn(tl.full([pixels], _SCALE, tl.float32), total)
        across = (core_width + _TILE - 1) // _TILE
        slot = ((top + y) // _TILE * across + x // _TILE) * classes + ids
        tl.atomic_add(out_confidence + slot, (probability + 0.5).to(tl.int64), mask=counts)
        tl.atomic_add(out_samples + slot, tl.full([pixels], 1, tl.int64), mask=counts)


@triton.jit
def _corner(  # noqa: PLR0913, PLR0917
    rows, row_weights, columns, column_weights, width, y, x, group
):
    """Of the first group of rows and a group of columns: where the pixels sample, before which
    weights of the way to the next row and the next column."""
    at = tl.load(columns + tl.load(columns + 2) + group) + x
    index_x, weight = tl.load(columns + tl.load(columns + 1) + at), tl.load(column_weights + at)
    index_y = tl.load(rows + tl.load(rows + 2) + y)
    return index_y * width + index_x, tl.load(row_weights + y), weight


@triton.jit
def _between(corner, width, row_weight, weight):
    above_left, above_right = tl.load(corner), tl.load(corner + 1)
    below_left, below_right = tl.load(corner + width), tl.load(corner + width + 1)
    left = above_left + row_weight * (below_left - above_left)
    right = above_right + row_weight * (below_right - above_right)
    return left + weight * (right - left)


@triton.jit
def _groups(  # noqa: PLR0913, PLR0917
    rows, row_weights, columns, column_weights, sums, width, y, x, groups_from, groups_to
):
    """The same for several: groups of rows added, between columns, groups of columns added."""
    total = tl.zeros_like(x).to(tl.float32)
    for group in range(groups_from, groups_to):
        at = tl.load(columns + tl.load(columns + 2) + group) + x
        index = tl.load(columns + tl.load(columns + 1) + at)
        left = tl.zeros_like(total)
        right = tl.zeros_like(total)
        for row_group in range(tl.load(rows + 4)):
            at_row = row_group * tl.load(rows + 5) + y
            row = sums + tl.load(rows + tl.load(rows + 2) + at_row) * width + index
            row_weight = tl.load(row_weights + at_row)
            above, below = tl.load(row), tl.load(row + width)
            left += above + row_weight * (below - above)
            above, below = tl.load(row + 1), tl.load(row + 1 + width)
            right += above + row_weight * (below - above)
        total += left + tl.load(column_weights + at) * (right - left)
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

"""The Triton kernel of the blend. No GPU has run it yet, only Triton's interpreter.

A program decides some pixels of one row, class by class, with the operations of `blend.py` in their
order; none of them are fused, so that the bits are the same. `TritonBlend._tables` says what the
tables of rows and columns hold.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types.

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.blend import EXP_LEAST, EXP_TERMS, LN2_HIGH, LN2_LOW, LOG2_E, ROUNDS
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import CONFIDENCE_SCALE

_LEAST, _LOG2_E, _ROUNDS = map(tl.constexpr, (EXP_LEAST, LOG2_E, ROUNDS))
_LN2_HIGH, _LN2_LOW = map(tl.constexpr, (LN2_HIGH, LN2_LOW))
_E0, _E1, _E2, _E3, _E4, _E5 = map(tl.constexpr, EXP_TERMS)
_SCALE, _TILE = map(tl.constexpr, (float(CONFIDENCE_SCALE), MASK_TILE_PX))


# What changes from launch to launch must not make Triton compile anew in the middle of a job.
@triton.jit(do_not_specialize=["classes", "width", "top", "first"])
def decide(  # noqa: PLR0913, PLR0917  a kernel's arguments are pointers and numbers
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

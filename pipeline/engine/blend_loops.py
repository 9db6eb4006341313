"""The loops of the compiled blend, for one strip and as many columns as stay in the cache.

Plain loops over arrays, which numba turns into vector code: classes outside, pixels inside, one
array per horizontal phase, so that neighbours in memory are alike. Neither fast mathematics nor
fused multiplications: the same bits in a vector and in what is left over, and as `blend.py` gives.

What the arrays hold, and what is lattice and scattered, stands in `blend_tables.py`.
"""

# mypy: disable-error-code="no-untyped-def"
# numba finds the types.

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from pipeline.engine.blend import EXP_LEAST, EXP_TERMS, LN2_HIGH, LN2_LOW, LOG2_E, ROUNDS
from pipeline.engine.blend_tables import PHASES
from pipeline.unit import CONFIDENCE_SCALE
from segformer.compiled import Compiled, inner

_f = np.float32
_FIRST, _STEP, _ONE, _HALF, _ZERO = _f(0.125), _f(0.25), _f(1), _f(0.5), _f(0)
_LEAST, _LOG2_E, _ROUNDS = _f(EXP_LEAST), _f(LOG2_E), _f(ROUNDS)
_LN2_HIGH, _LN2_LOW = _f(LN2_HIGH), _f(LN2_LOW)
_E0, _E1, _E2, _E3, _E4, _E5 = map(_f, EXP_TERMS)
_SCALE = _f(CONFIDENCE_SCALE)


@intrinsic
def _at(typing: Any, address: Any) -> Any:  # noqa: ARG001
    """The float32 values at an address."""
    pointer = types.CPointer(types.float32)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return pointer(types.int64), code


def _blend_strip(rows, columns, scratch, out):
    """Ids and confidences of a strip's chunk of columns."""
    sums, narrow, best, values = scratch.sums, scratch.narrow, scratch.best, scratch.values
    loaded, ids, values_best = scratch.loaded, scratch.ids, scratch.values_best
    for group in range(len(loaded)):
        loaded[group] = -1
    for y in range(rows.indices.shape[1]):
        for group in range(len(loaded)):
            while loaded[group] <= rows.indices[group, y]:
                loaded[group] += 1
                to = sums[group, loaded[group] & 1]
                _add_windows(rows, columns.members, columns.runs, group, loaded[group], to)
        for k in range(sums.shape[2]):
            _between_rows(rows.indices, rows.weights, sums, y, k, narrow)
            _best_of_lattice(narrow, best, ids, k)
            _between_columns(narrow, columns.indices, columns.weights, values)
            _best_of_scattered(values, values_best, scratch.values_ids, k)
        _write_ids(columns.places, scratch.ids, scratch.values_ids, scratch.line, y, out)
        if rows.slots[y] >= 0:
            _sample(columns.phases, best, scratch.exponentials)
            for k in range(sums.shape[2]):
                _between_rows(rows.indices, rows.weights, sums, y, k, narrow)
                _between_columns(narrow, columns.indices, columns.weights, values)
                _add_exponentials(narrow, values, values_best, scratch.shares, scratch.exponentials)
            _count(columns.samples, scratch.exponentials, y, rows.slots[y], out)


@inner
def _add_windows(rows, col_members, runs, group, row, sums):
    """One low-resolution row of the sum of the group's windows: K x narrow."""
    for run in range(len(runs)):
        to, further = sums[:, runs[run, 0] : runs[run, 1]], False
        for i in range(rows.groups[group], rows.groups[group + 1]):
            for j in range(runs[run, 2], runs[run, 3]):
                window = rows.windows[rows.members[i, 0], col_members[j, 0]]
                _add_window(window, rows.members[i, 1] + row, col_members[j, 1], to, further)
                further = True


@inner
def _add_window(window, row, first, sums, further):
    """A row of a window, from a column on, clamped at its own edges."""
    address, step_k, step_row, low = window[0], window[1], window[2], window[3]
    left, right = max(first, 0), min(first + sums.shape[1], low)
    before, inside = left - first, right - left
    start = address + min(max(row, 0), low - 1) * step_row + 4 * left
    for k in range(len(sums)):
        source, to = _at(start + k * step_k), sums[k, before : before + inside]
        if further:
            for t in range(inside):
                to[t] += source[t]
        else:
            for t in range(inside):
                to[t] = source[t]
        for t in range(before):
            sums[k, t] = source[0] + (sums[k, t] if further else _ZERO)
        for t in range(before + inside, sums.shape[1]):
            sums[k, t] = source[inside - 1] + (sums[k, t] if further else _ZERO)


@inner
def _between_rows(index, weights, sums, y, k, narrow):
    for group in range(len(sums)):
        row, weight = index[group, y], weights[group, y]
        above, below = sums[group, row & 1, k], sums[group, (row + 1) & 1, k]
        if group == 0:
            for t in range(len(above)):
                narrow[t] = above[t] + weight * (below[t] - above[t])
        else:
            for t in range(len(above)):
                narrow[t] += above[t] + weight * (below[t] - above[t])


@inner
def _best_of_lattice(narrow, all_best, all_ids, k):
    """Where two runs meet, what comes of it is not read."""
    for phase in range(PHASES):
        weight = _FIRST + _f(phase) * _STEP
        best, ids = all_best[phase], all_ids[phase]
        if k == 0:
            for t in range(len(best)):
                best[t] = narrow[t] + weight * (narrow[t + 1] - narrow[t])
                ids[t] = 0
        else:
            for t in range(len(best)):
                value = narrow[t] + weight * (narrow[t + 1] - narrow[t])
                better = value > best[t]
                best[t] = value if better else best[t]
                ids[t] = np.int32(k) if better else ids[t]


@inner
def _between_columns(narrow, index, weight, values):
    """The values of one class in scattered columns."""
    for term in range(len(index)):
        for x in range(len(values)):
            at = index[term, x]
            value = narrow[at] + weight[term, x] * (narrow[at + 1] - narrow[at])
            values[x] = value if term == 0 else values[x] + value


@inner
def _best_of_scattered(values, best, ids, k):
    for x in range(len(values)):
        better = k == 0 or values[x] > best[x]
        best[x] = values[x] if better else best[x]
        ids[x] = np.int32(k) if better else ids[x]


@inner
def _write_ids(places, ids, values_ids, line, y, out):
    for phase in range(PHASES):
        for t in range(ids.shape[1]):
            line[PHASES * t + phase] = ids[phase, t]
    scattered = line[PHASES * ids.shape[1] :]
    for x in range(len(values_ids)):
        scattered[x] = values_ids[x]
    for place in range(len(places)):
        start, end = places[place, 0], places[place, 1]
        valid, source = out.valid[y, start:end], line[places[place, 2] :]
        to = out.ids[out.corner[0] + y, out.corner[1] + start : out.corner[1] + end]
        for x in range(len(to)):
            to[x] = source[x] if valid[x] else to[x]


@inner
def _sample(phases, best, exponentials):
    """Of the lattice, one of the four pixels between two positions is sampled."""
    for t in range(exponentials.shape[1]):
        exponentials[0, t] = _ZERO
    for t in range(len(phases)):
        exponentials[1, t] = best[phases[t], t]
        exponentials[2, t] = _FIRST + _f(phases[t]) * _STEP


@inner
def _add_exponentials(narrow, values, values_best, shares, exponentials):
    """Of how far the mean of the class is behind the best; of scattered columns at all pixels."""
    sums, best, weight = exponentials[0], exponentials[1], exponentials[2]
    lattice = len(sums) - len(values)
    for t in range(lattice):
        value = narrow[t] + weight[t] * (narrow[t + 1] - narrow[t])
        sums[t] += _exponential((value - best[t]) * shares[t])
    sums, shares = sums[lattice:], shares[lattice:]
    for x in range(len(values)):
        sums[x] += _exponential((values[x] - values_best[x]) * shares[x])


@inner
def _exponential(x):
    """As blend.exponential."""
    x = x if x > _LEAST else _LEAST
    power = (x * _LOG2_E + _ROUNDS) - _ROUNDS
    rest = (x - power * _LN2_HIGH) - power * _LN2_LOW
    term = ((((_E0 * rest + _E1) * rest + _E2) * rest + _E3) * rest + _E4) * rest + _E5
    value = ((term * rest) * rest + rest) + _ONE
    return value * np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32)


@inner
def _count(samples, exponentials, y, first_slot, out):
    for i in range(len(samples)):
        x = samples[i, 0]
        if out.valid[y, x]:
            id_ = out.ids[out.corner[0] + y, out.corner[1] + x]
            slot = first_slot + samples[i, 1] + id_
            probability = _SCALE / exponentials[0, samples[i, 2]]
            out.confidence[slot] += np.int64(probability + _HALF)
            out.samples[slot] += 1


blend_strip = Compiled(_blend_strip)

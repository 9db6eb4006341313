"""The loops of the compiled blend, for one strip and as many columns as stay in the cache.

Plain loops over arrays, which numba turns into vector code: classes outside, pixels inside, one
array per horizontal phase, so that neighbors in memory are treated alike. Neither fast mathematics
nor fused multiplications: the same bits in a vector and in its remainder, and as `blend_plain.py`
gives.

`blend_cpu_tables.py` says what the arrays hold, and which columns are regular.
"""

# mypy: disable-error-code="no-untyped-def"
# numba finds the types.

from __future__ import annotations

import numpy as np

from pipeline.engine.blend_cpu_tables import (
    ADDRESS,
    CLASS_STEP,
    EDGE,
    PHASES,
    PLACE_END,
    PLACE_IN_LINE,
    PLACE_START,
    POSITION,
    ROW_STEP,
    RUN_END,
    RUN_MEMBERS,
    RUN_MEMBERS_END,
    RUN_START,
    SAMPLE_COLUMN,
    SAMPLE_EXPONENTIAL,
    SAMPLE_SLOT,
    WINDOW,
)
from pipeline.engine.confidence import (
    EXP_TERMS,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    MIN_EXPONENT,
    ROUNDING,
)
from pipeline.unit import CONFIDENCE_SCALE
from segformer.compiled import Compiled, inner
from segformer.operations.pointers import floats

_f = np.float32
_FIRST, _STEP, _ONE, _HALF, _ZERO = _f(0.125), _f(0.25), _f(1), _f(0.5), _f(0)
_MIN_EXPONENT, _LOG2_E, _ROUNDING = _f(MIN_EXPONENT), _f(LOG2_E), _f(ROUNDING)
_LN2_HIGH, _LN2_LOW = _f(LN2_HIGH), _f(LN2_LOW)
_E0, _E1, _E2, _E3, _E4, _E5 = map(_f, EXP_TERMS)
_SCALE = _f(CONFIDENCE_SCALE)


def _blend_strip(rows, columns, scratch, out):
    """Class ids and confidences of a strip's chunk of columns: a Rows, Columns, Scratch and Out."""
    sums, low_row, best, values = scratch.sums, scratch.low_row, scratch.best, scratch.values
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
            _between_rows(rows.indices, rows.weights, sums, y, k, low_row)
            _best_of_regular(low_row, best, ids, k)
            _between_columns(low_row, columns.indices, columns.weights, values)
            _best_of_irregular(values, values_best, scratch.values_ids, k)
        _write_ids(columns.places, scratch.ids, scratch.values_ids, scratch.line, y, out)
        if rows.slots[y] >= 0:
            _sample(columns.phases, best, scratch.exponentials)
            for k in range(sums.shape[2]):
                _between_rows(rows.indices, rows.weights, sums, y, k, low_row)
                _between_columns(low_row, columns.indices, columns.weights, values)
                _add_exponentials(
                    low_row, values, values_best, scratch.shares, scratch.exponentials
                )
            _count(columns.samples, scratch.exponentials, y, rows.slots[y], out)


@inner
def _add_windows(rows, col_members, runs, group, row, sums):
    """One low-resolution row of the sum of the group's windows: K x positions."""
    for run in range(len(runs)):
        to, further = sums[:, runs[run, RUN_START] : runs[run, RUN_END]], False
        for i in range(rows.groups[group], rows.groups[group + 1]):
            for j in range(runs[run, RUN_MEMBERS], runs[run, RUN_MEMBERS_END]):
                window = rows.windows[rows.members[i, WINDOW], col_members[j, WINDOW]]
                window_row = rows.members[i, POSITION] + row
                _add_window(window, window_row, col_members[j, POSITION], to, further)
                further = True


@inner
def _add_window(window, row, first, sums, further):
    """A row of a window, from position `first` on, clamped at its own edges; added to the sums if
    `further`, else in their place."""
    address, edge = window[ADDRESS], window[EDGE]
    class_step, row_step = window[CLASS_STEP], window[ROW_STEP]
    left, right = max(first, 0), min(first + sums.shape[1], edge)
    before, inside = left - first, right - left
    start = address + min(max(row, 0), edge - 1) * row_step + 4 * left
    for k in range(len(sums)):
        source, to = floats(start + k * class_step), sums[k, before : before + inside]
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
def _between_rows(index, weights, sums, y, k, low_row):
    """A row of pixels of one class at the low resolution across: the groups of rows added."""
    for group in range(len(sums)):
        row, weight = index[group, y], weights[group, y]
        above, below = sums[group, row & 1, k], sums[group, (row + 1) & 1, k]
        if group == 0:
            for t in range(len(above)):
                low_row[t] = above[t] + weight * (below[t] - above[t])
        else:
            for t in range(len(above)):
                low_row[t] += above[t] + weight * (below[t] - above[t])


@inner
def _best_of_regular(low_row, all_best, all_ids, k):
    """Take class k as the best of the regular columns wherever its value is higher. Between two
    runs of positions, nobody reads the result."""
    for phase in range(PHASES):
        weight = _FIRST + _f(phase) * _STEP
        best, ids = all_best[phase], all_ids[phase]
        if k == 0:
            for t in range(len(best)):
                best[t] = low_row[t] + weight * (low_row[t + 1] - low_row[t])
                ids[t] = 0
        else:
            for t in range(len(best)):
                value = low_row[t] + weight * (low_row[t + 1] - low_row[t])
                better = value > best[t]
                best[t] = value if better else best[t]
                ids[t] = np.int32(k) if better else ids[t]


@inner
def _between_columns(low_row, index, weight, values):
    """The values of one class in the irregular columns: the groups of columns added."""
    for term in range(len(index)):
        places, by = index[term], weight[term]
        for x in range(len(values)):
            at = places[x]  # unsigned: numba asks of every other number whether it is negative
            value = low_row[at] + by[x] * (low_row[at + 1] - low_row[at])
            values[x] = value if term == 0 else values[x] + value


@inner
def _best_of_irregular(values, best, ids, k):
    """Take class k as the best of the irregular columns wherever its value is higher."""
    for x in range(len(values)):
        better = k == 0 or values[x] > best[x]
        best[x] = values[x] if better else best[x]
        ids[x] = np.int32(k) if better else ids[x]


@inner
def _write_ids(places, ids, values_ids, line, y, out):
    """Write a row of class ids to the valid pixels, by way of `line`."""
    for phase in range(PHASES):
        for t in range(ids.shape[1]):
            line[PHASES * t + phase] = ids[phase, t]
    irregular = line[PHASES * ids.shape[1] :]
    for x in range(len(values_ids)):
        irregular[x] = values_ids[x]
    for place in range(len(places)):
        start, end = places[place, PLACE_START], places[place, PLACE_END]
        valid, source = out.valid[y, start:end], line[places[place, PLACE_IN_LINE] :]
        to = out.ids[out.corner[0] + y, out.corner[1] + start : out.corner[1] + end]
        for x in range(len(to)):
            to[x] = source[x] if valid[x] else to[x]


@inner
def _sample(phases, best, exponentials):
    """Start the exponentials at 0, each with the best value and the weight of the one pixel in four
    that is sampled between two positions of the regular columns."""
    for t in range(exponentials.shape[1]):
        exponentials[0, t] = _ZERO
    for t in range(len(phases)):
        exponentials[1, t] = best[phases[t], t]
        exponentials[2, t] = _FIRST + _f(phases[t]) * _STEP


@inner
def _add_exponentials(low_row, values, values_best, shares, exponentials):
    """Add exp() of how far the mean of a class is behind that of the best: at the sampled pixels of
    regular columns, and at all pixels of irregular ones."""
    sums, best, weight = exponentials[0], exponentials[1], exponentials[2]
    regular = len(sums) - len(values)
    for t in range(regular):
        value = low_row[t] + weight[t] * (low_row[t + 1] - low_row[t])
        sums[t] += _exponential((value - best[t]) * shares[t])
    sums, shares = sums[regular:], shares[regular:]
    for x in range(len(values)):
        sums[x] += _exponential((values[x] - values_best[x]) * shares[x])


@inner
def _exponential(x):
    """The same as confidence.exponential."""
    x = x if x > _MIN_EXPONENT else _MIN_EXPONENT
    power = (x * _LOG2_E + _ROUNDING) - _ROUNDING
    rest = (x - power * _LN2_HIGH) - power * _LN2_LOW
    term = ((((_E0 * rest + _E1) * rest + _E2) * rest + _E3) * rest + _E4) * rest + _E5
    value = ((term * rest) * rest + rest) + _ONE
    return value * np.int32((np.int32(power) + np.int32(127)) << np.int32(23)).view(np.float32)


@inner
def _count(samples, exponentials, y, first_slot, out):
    """Add the probabilities of a row's sampled pixels to their mask tiles and classes."""
    for i in range(len(samples)):
        x = samples[i, SAMPLE_COLUMN]
        if out.valid[y, x]:
            id_ = out.ids[out.corner[0] + y, out.corner[1] + x]
            slot = first_slot + samples[i, SAMPLE_SLOT] + id_
            probability = _SCALE / exponentials[0, samples[i, SAMPLE_EXPONENTIAL]]
            out.confidence[slot] += np.int64(probability + _HALF)
            out.samples[slot] += 1


blend_strip = Compiled(_blend_strip)

"""The loops between the network's matrix products on a CPU, each one pass over memory.

`plain` says in torch's words what they compute; shape suffixes as in `protocol`, and G rows in a
strip. From Xie et al. 2021 (arXiv 2105.15203), sections 3.1 and 3.2, and modeling_segformer.py of
transformers (Apache-2.0).

Channels are innermost, so that neighbors in memory are alike and numba makes vectors of them. No
result depends on how rows are shared among threads. Each loop comes for float32 and for bfloat16,
and computes in float32. A job's words are in the order of the loop's docstring.
"""

# mypy: disable-error-code="no-untyped-def"
# numba finds the types.

from __future__ import annotations

import math

import numpy as np

from segformer.operations.gelu import gelu_terms
from segformer.operations.pointers import bfloats, floats, integers, load, store
from segformer.operations.torch_threads import ParallelLoop, fast_njit

_f = np.float32
_ONE, _HALF, _ZERO = _f(1), _f(0.5), _f(0)
GELU_END = 3.8 * math.sqrt(2)
"""The |x| from which erf(x / sqrt 2) is 1 in float32, within 1e-7. With float32 terms the whole is
within 9e-7 of exact GELU up to |x| = 6 (torch's own: 1.1e-6), and within 2e-7 of x beyond."""
GELU_DEGREE = 14
"""Degree of its polynomial."""
_FIRST_MAP, _MAP_WORDS = 9, 6
"""The word at which the coarser maps of `_add_upsampled_relu` start, and the words of each."""

_END, _SQUARES = _f(GELU_END), _f(2 / GELU_END**2)
_0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14 = map(
    _f, gelu_terms(GELU_END, GELU_DEGREE)
)


@fast_njit
def _gelu(x):
    """GELU by the polynomial of `gelu_terms`, in pairs of terms (Estrin): half as long a chain as
    Horner's."""
    c = min(max(x, -_END), _END)
    t = c * c * _SQUARES - _ONE
    t2 = t * t
    t4 = t2 * t2
    low = (_0 + _1 * t) + (_2 + _3 * t) * t2 + ((_4 + _5 * t) + (_6 + _7 * t) * t2) * t4
    high = (_8 + _9 * t) + (_10 + _11 * t) * t2 + ((_12 + _13 * t) + _14 * t2) * t4
    return x * (_HALF + c * (low + high * (t4 * t4)))


@fast_njit
def _depthwise_gelu(job, part, parts, values):
    """GELU of a 3x3 depthwise convolution, padded with 0.

    job: images, height, width, channels; x_NTF, out_NTF; taps_9F; biases_16F (see
    `cpu.ExpandedDepthwise`); scratch of one pixel's channels per thread.
    """
    images, height, width, n = job[0], job[1], job[2], job[3]
    pixels, out, taps, biases = values(job[4]), values(job[5]), floats(job[6]), floats(job[7])
    total = floats(job[8] + 4 * part * n)
    for row in range(images * height * part // parts, images * height * (part + 1) // parts):
        y = row % height
        top, bottom = y == 0, y == height - 1
        for x in range(width):
            left, right = x == 0, x == width - 1
            at = (row * width + x) * n
            if not (top or bottom or left or right):
                _inner_pixel(pixels, at, width * n, n, taps, biases, out)
                continue
            bias = (8 * top + 4 * bottom + 2 * left + right) * n
            for c in range(n):
                total[c] = biases[bias + c]
            for dy in range(-1 + top, 2 - bottom):
                for dx in range(-1 + left, 2 - right):
                    tap, other = (3 * dy + dx + 4) * n, at + (dy * width + dx) * n
                    for c in range(n):
                        total[c] += load(pixels, other + c) * taps[tap + c]
            for c in range(n):
                store(out, at + c, _gelu(total[c]))


@fast_njit
def _inner_pixel(pixels, at, row, n, taps, biases, out):
    above, below = at - row, at + row
    for c in range(n):
        total = biases[c] + load(pixels, above - n + c) * taps[c]
        total += load(pixels, above + c) * taps[n + c]
        total += load(pixels, above + n + c) * taps[2 * n + c]
        total += load(pixels, at - n + c) * taps[3 * n + c]
        total += load(pixels, at + c) * taps[4 * n + c]
        total += load(pixels, at + n + c) * taps[5 * n + c]
        total += load(pixels, below - n + c) * taps[6 * n + c]
        total += load(pixels, below + c) * taps[7 * n + c]
        total += load(pixels, below + n + c) * taps[8 * n + c]
        store(out, at + c, _gelu(total))


@fast_njit
def _add_norm(job, part, parts, values):
    """z = x + y + bias, and the layer norm of z.

    job: tokens, channels; x_TC (z replaces it), y_TC, normed_TC; bias_C, gain_C, shift_C, eps.
    """
    tokens, n = job[0], job[1]
    x, y, out = values(job[2]), values(job[3]), values(job[4])
    bias, gain, shift, eps = floats(job[5]), floats(job[6]), floats(job[7]), floats(job[8])[0]
    share = _ONE / _f(n)
    for token in range(tokens * part // parts, tokens * (part + 1) // parts):
        at = token * n
        total = _ZERO
        for c in range(n):
            value = load(x, at + c) + (load(y, at + c) + bias[c])
            store(x, at + c, value)
            total += value
        mean = total * share
        squares = _ZERO
        for c in range(n):
            distance = load(x, at + c) - mean
            squares += distance * distance
        scale = _ONE / np.sqrt(squares * share + eps)
        for c in range(n):
            store(out, at + c, (load(x, at + c) - mean) * scale * gain[c] + shift[c])


@fast_njit
def _add_upsampled_relu(job, part, parts, values):
    """ReLU of a strip of the finest map plus a bias and the coarser maps, upsampled.

    job: rows, first row, width, channels; sum_GWC, in place; bias_C; scratch, and its floats per
    thread; the number of coarser maps. Then for each coarser map: x_hwC, w, and for the rows and
    for the columns of the finest map a `cpu.Axis`: two neighbors each, the second one's weight.
    """
    rows, first, width, n = job[0], job[1], job[2], job[3]
    out, bias, maps = values(job[4]), floats(job[5]), job[8]
    scratch = job[6] + 4 * part * job[7]
    total = floats(scratch)
    for row in range(rows * part // parts, rows * (part + 1) // parts):
        between = scratch + 4 * n
        for m in range(_FIRST_MAP, _FIRST_MAP + _MAP_WORDS * maps, _MAP_WORDS):
            _between_rows(job, m, first + row, values(job[m]), floats(between))
            between += 4 * n * job[m + 1]
        for x in range(width):
            at = (row * width + x) * n
            for c in range(n):
                total[c] = load(out, at + c) + bias[c]
            between = scratch + 4 * n
            for m in range(_FIRST_MAP, _FIRST_MAP + _MAP_WORDS * maps, _MAP_WORDS):
                _add_between_columns(job, m, x, floats(between), total)
                between += 4 * n * job[m + 1]
            for c in range(n):
                value = total[c]
                store(out, at + c, _ZERO if value < _ZERO else value)  # NaN stays


@fast_njit
def _between_rows(job, m, y, pixels, to):
    """Interpolate one row of a coarser map, whose words are at m, at row y of the finest."""
    size = job[m + 1] * job[3]
    neighbors, weight = integers(job[m + 2]), floats(job[m + 3])[y]
    upper, lower = neighbors[2 * y] * size, neighbors[2 * y + 1] * size
    rest = _ONE - weight
    for c in range(size):
        to[c] = rest * load(pixels, upper + c) + weight * load(pixels, lower + c)


@fast_njit
def _add_between_columns(job, m, x, between, total):
    """Interpolate in such a row at column x of the finest map, and add one pixel's channels."""
    n = job[3]
    neighbors, weight = integers(job[m + 4]), floats(job[m + 5])[x]
    left, right = neighbors[2 * x] * n, neighbors[2 * x + 1] * n
    rest = _ONE - weight
    for c in range(n):
        total[c] += rest * between[left + c] + weight * between[right + c]


def _depthwise_gelu_float32(job, part, parts):
    _depthwise_gelu(job, part, parts, floats)


def _depthwise_gelu_bfloat16(job, part, parts):
    _depthwise_gelu(job, part, parts, bfloats)


def _add_norm_float32(job, part, parts):
    _add_norm(job, part, parts, floats)


def _add_norm_bfloat16(job, part, parts):
    _add_norm(job, part, parts, bfloats)


def _add_upsampled_relu_float32(job, part, parts):
    _add_upsampled_relu(job, part, parts, floats)


def _add_upsampled_relu_bfloat16(job, part, parts):
    _add_upsampled_relu(job, part, parts, bfloats)


depthwise_gelu = {
    "float32": ParallelLoop(_depthwise_gelu_float32),
    "bfloat16": ParallelLoop(_depthwise_gelu_bfloat16),
}
add_norm = {
    "float32": ParallelLoop(_add_norm_float32),
    "bfloat16": ParallelLoop(_add_norm_bfloat16),
}
add_upsampled_relu = {
    "float32": ParallelLoop(_add_upsampled_relu_float32),
    "bfloat16": ParallelLoop(_add_upsampled_relu_bfloat16),
}

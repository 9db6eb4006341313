"""The operations of `fused` as Triton kernels: each one pass over a GPU's memory.

Arithmetic is float32 whatever the tensors hold, and the shapes of programs are fixed, never chosen
by timing: so a window's logits are the same bits on every GPU of a kind.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types.

from __future__ import annotations

import math

import triton
import triton.language as tl

from segformer.gelu import gelu_terms

_GELU_END = 3.2 * math.sqrt(2)
_END, _SQUARES = tl.constexpr(_GELU_END), tl.constexpr(2 / _GELU_END**2)
_0, _1, _2, _3, _4, _5, _6, _7, _8, _9, _10 = map(tl.constexpr, gelu_terms(_GELU_END, 10))


@triton.jit
def depthwise_gelu(  # noqa: PLR0913, PLR0917  a kernel's arguments are pointers and numbers
    x,
    taps,
    bias,
    out,
    height,
    width,
    channels,
    rows: tl.constexpr,
    pairs: tl.constexpr,
    lanes: tl.constexpr,
):
    """Some rows of some columns and channels of one image x_HWC: a 3x3 depthwise convolution,
    padded with 0, and GELU. taps: float32_9C, row by row.

    Goes down the rows: each is read once and gives its part to the three rows that it touches. A
    thread has two neighbours in a row, which share what lies between them.
    """
    c = tl.program_id(0) * lanes + tl.arange(0, lanes)
    across = (width + 2 * pairs - 1) // (2 * pairs)
    first = tl.program_id(1) // across * rows
    px = (tl.program_id(1) % across * pairs + tl.arange(0, pairs)) * 2
    image = tl.program_id(2).to(tl.int64) * height * width * channels
    has_c = c < channels
    has_before = ((px >= 1) & (px <= width))[:, None] & has_c[None, :]
    has_one = (px < width)[:, None] & has_c[None, :]
    has_two = (px + 1 < width)[:, None] & has_c[None, :]
    has_after = (px + 2 < width)[:, None] & has_c[None, :]
    top_left = _tap(taps, 0, c, channels)
    top = _tap(taps, 1, c, channels)
    top_right = _tap(taps, 2, c, channels)
    left = _tap(taps, 3, c, channels)
    centre = _tap(taps, 4, c, channels)
    right = _tap(taps, 5, c, channels)
    low_left = _tap(taps, 6, c, channels)
    low = _tap(taps, 7, c, channels)
    low_right = _tap(taps, 8, c, channels)
    added = tl.load(bias + c, mask=has_c, other=0).to(tl.float32)[None, :]
    here_one = tl.zeros([pairs, lanes], tl.float32)
    here_two = tl.zeros([pairs, lanes], tl.float32)
    ahead_one = here_one + added
    ahead_two = here_two + added
    for row in range(first - 1, first + rows + 1):
        offset = (row * width + px)[:, None] * channels + c[None, :]
        at = x + image + offset
        has_row = (row >= 0) & (row < height)
        before = tl.load(at - channels, mask=has_before & has_row, other=0).to(tl.float32)
        one = tl.load(at, mask=has_one & has_row, other=0).to(tl.float32)
        two = tl.load(at + channels, mask=has_two & has_row, other=0).to(tl.float32)
        after = tl.load(at + 2 * channels, mask=has_after & has_row, other=0).to(tl.float32)
        total_one = here_one + before * low_left + one * low + two * low_right
        total_two = here_two + one * low_left + two * low + after * low_right
        here_one = ahead_one + before * left + one * centre + two * right
        here_two = ahead_two + one * left + two * centre + after * right
        ahead_one = added + before * top_left + one * top + two * top_right
        ahead_two = added + one * top_left + two * top + after * top_right
        if row > first:
            to = out + image + offset - width * channels
            complete = row <= height
            tl.store(to, _gelu(total_one, out), mask=has_one & complete)
            tl.store(to + channels, _gelu(total_two, out), mask=has_two & complete)


@triton.jit
def _tap(taps, number, c, channels):
    return tl.load(taps + number * channels + c, mask=c < channels, other=0)[None, :]


@triton.jit
def _gelu(x, out):
    """In the type of what is at `out`."""
    kind: tl.constexpr = out.dtype.element_ty
    if kind == tl.float32:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    c = tl.minimum(tl.maximum(x, -_END), _END)
    t = c * c * _SQUARES - 1.0
    q = _10 * t + _9
    q = q * t + _8
    q = q * t + _7
    q = q * t + _6
    q = q * t + _5
    q = q * t + _4
    q = q * t + _3
    q = q * t + _2
    q = q * t + _1
    q = q * t + _0
    return (x * (0.5 + c * q)).to(kind)


@triton.jit
def add_norm(  # noqa: PLR0913, PLR0917
    x,
    y,
    bias,
    first_gain,
    first_shift,
    gain,
    shift,
    out_sum,
    out_normed,
    count,
    channels,
    first_eps,
    eps,
    adds: tl.constexpr,
    has_bias: tl.constexpr,
    norms_first: tl.constexpr,
    keeps: tl.constexpr,
    tokens: tl.constexpr,
    lanes: tl.constexpr,
):
    """Of some tokens x_TC: x, with y and a bias added, or the first norm of that; and the layer
    norm of it."""
    t = tl.program_id(0) * tokens + tl.arange(0, tokens)
    c = tl.arange(0, lanes)
    has_c = c < channels
    there = (t < count)[:, None] & has_c[None, :]
    at = t.to(tl.int64)[:, None] * channels + c[None, :]
    value = tl.load(x + at, mask=there, other=0).to(tl.float32)
    if adds:
        value += tl.load(y + at, mask=there, other=0).to(tl.float32)
    if has_bias:
        value += tl.load(bias + c, mask=has_c, other=0).to(tl.float32)[None, :]
    if norms_first:
        value = _normed(value, first_gain, first_shift, first_eps, c, has_c, channels)
    if keeps:
        kept = value.to(out_sum.dtype.element_ty)
        tl.store(out_sum + at, kept, mask=there)
    normed = _normed(value, gain, shift, eps, c, has_c, channels)
    tl.store(out_normed + at, normed.to(out_normed.dtype.element_ty), mask=there)


@triton.jit
def _normed(value, gain, shift, eps, c, has_c, channels):
    mean = tl.sum(value, axis=1) / channels
    distance = tl.where(has_c[None, :], value - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(distance * distance, axis=1) / channels + eps)
    weight = tl.load(gain + c, mask=has_c, other=0).to(tl.float32)
    moved = tl.load(shift + c, mask=has_c, other=0).to(tl.float32)
    return distance * scale[:, None] * weight[None, :] + moved[None, :]


@triton.jit
def decode(  # noqa: PLR0913, PLR0917
    finest,
    first_weight,
    one,
    two,
    three,
    bias,
    last_weight,
    last_bias,
    out,
    height,
    width,
    height_1,
    width_1,
    height_2,
    width_2,
    height_3,
    width_3,
    inputs,
    channels,
    classes,
    pixels: tl.constexpr,
    span_1: tl.constexpr,
    span_2: tl.constexpr,
    span_3: tl.constexpr,
    lanes: tl.constexpr,
    input_lanes: tl.constexpr,
    class_lanes: tl.constexpr,
):
    """The whole head for some pixels of a row of one image: projects the finest scale, adds the
    coarser ones upsampled, ReLU, classifies; out is N K H W.

    Upsampling is a product too: of weights, zero but for a pixel's two neighbours in each of two
    rows, and of as many positions as the pixels lie between.
    """
    across = (width + pixels - 1) // pixels
    y = tl.program_id(0) // across
    start = tl.program_id(0) % across * pixels
    px = start + tl.arange(0, pixels)
    image = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, input_lanes)
    k = tl.arange(0, class_lanes)
    place = ((image * height + y) * width + px)[:, None]
    within = (px < width)[:, None]
    features = tl.load(
        finest + place * inputs + i[None, :], mask=within & (i < inputs)[None, :], other=0
    )
    kind: tl.constexpr = finest.dtype.element_ty
    upper_1, lower_1 = _weights(height, width, height_1, width_1, y, start, px, span_1, kind)
    upper_2, lower_2 = _weights(height, width, height_2, width_2, y, start, px, span_2, kind)
    upper_3, lower_3 = _weights(height, width, height_3, width_3, y, start, px, span_3, kind)
    logits = tl.zeros([pixels, class_lanes], tl.float32)
    for first in range(0, channels, lanes):
        c = first + tl.arange(0, lanes)
        has_c = c < channels
        projection = tl.load(
            first_weight + c[None, :] * inputs + i[:, None],
            mask=has_c[None, :] & (i < inputs)[:, None],
            other=0,
        )
        total = tl.dot(features, projection, input_precision="ieee")
        total += tl.load(bias + c, mask=has_c, other=0).to(tl.float32)[None, :]
        above, below = _rows(
            one, image, height, width, height_1, width_1, y, start, c, channels, span_1
        )
        total = tl.dot(upper_1, above, total, input_precision="ieee")
        total = tl.dot(lower_1, below, total, input_precision="ieee")
        above, below = _rows(
            two, image, height, width, height_2, width_2, y, start, c, channels, span_2
        )
        total = tl.dot(upper_2, above, total, input_precision="ieee")
        total = tl.dot(lower_2, below, total, input_precision="ieee")
        above, below = _rows(
            three, image, height, width, height_3, width_3, y, start, c, channels, span_3
        )
        total = tl.dot(upper_3, above, total, input_precision="ieee")
        total = tl.dot(lower_3, below, total, input_precision="ieee")
        total = tl.where(total < 0.0, 0.0, total)  # NaN stays
        weight = tl.load(
            last_weight + k[None, :] * channels + c[:, None],
            mask=(k < classes)[None, :] & has_c[:, None],
            other=0,
        )
        logits = tl.dot(total.to(kind), weight, logits, input_precision="ieee")
    logits += tl.load(last_bias + k, mask=k < classes, other=0).to(tl.float32)[None, :]
    to = out + ((image * classes + k)[None, :] * height + y) * width + px[:, None]
    tl.store(to, logits.to(out.dtype.element_ty), mask=within & (k < classes)[None, :])


@triton.jit
def _place(at, size, coarser):
    """Of positions of the finest map among those of a coarser one: the first neighbour, and the
    second one's weight."""
    place = tl.maximum((at + 0.5) * (coarser / size) - 0.5, 0.0)
    first = place.to(tl.int32)
    return first, place - first


@triton.jit
def _weights(  # noqa: PLR0913, PLR0917
    height, width, own_height, own_width, y, start, px, span: tl.constexpr, kind
):
    """Of each pixel: the weights of `span` positions in the row above, and in the one below."""
    _, weight_y = _place(y, height, own_height)
    left, weight_x = _place(px, width, own_width)
    right = tl.minimum(left + 1, own_width - 1)
    base, _ = _place(start, width, own_width)
    x = (base + tl.arange(0, span))[None, :]
    weight = tl.where(x == left[:, None], 1.0 - weight_x[:, None], 0.0)
    weight += tl.where(x == right[:, None], weight_x[:, None], 0.0)
    return (weight * (1.0 - weight_y)).to(kind), (weight * weight_y).to(kind)


@triton.jit
def _rows(  # noqa: PLR0913, PLR0917
    coarse, image, height, width, own_height, own_width, y, start, c, channels, span: tl.constexpr
):
    """The positions that `_weights` speaks of."""
    upper, _ = _place(y, height, own_height)
    lower = tl.minimum(upper + 1, own_height - 1)
    base, _ = _place(start, width, own_width)
    x = base + tl.arange(0, span)
    there = (x < own_width)[:, None] & (c < channels)[None, :]
    at = x[:, None] * channels + c[None, :]
    above = coarse + (image * own_height + upper) * own_width * channels
    below = coarse + (image * own_height + lower) * own_width * channels
    return tl.load(above + at, mask=there, other=0), tl.load(below + at, mask=there, other=0)

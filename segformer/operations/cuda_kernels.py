"""Triton kernels for what lies between the encoder's matrix products, each one pass over memory.

`plain` says in torch's words what they compute; shape suffixes as in `protocol`. From Xie et al.
2021 (arXiv 2105.15203), section 3.1, and modeling_segformer.py of transformers (Apache-2.0).

Arithmetic is float32 whatever the tensors hold, and what a program computes is fixed, never chosen
by timing: so a window's logits are the same bits on every GPU of a kind.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types.

from __future__ import annotations

import math

import triton
import triton.language as tl

from segformer.operations.gelu import gelu_terms

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
    """GELU of a 3x3 depthwise convolution, padded with 0, of images x_NHWC.

    taps: float32, taps_9C, row by row. A program computes `rows` rows of 2 x `pairs` columns and
    `lanes` channels of one image. It walks down the rows: each is read once and contributes to the
    three rows that it touches. A thread has pairs of neighbors in a row, which share what is
    between them.
    """
    parts = (channels + lanes - 1) // lanes
    c = tl.program_id(0) % parts * lanes + tl.arange(0, lanes)
    tile = tl.program_id(0) // parts
    across = (width + 2 * pairs - 1) // (2 * pairs)
    first = tile // across * rows
    px = (tile % across * pairs + tl.arange(0, pairs)) * 2
    image = tl.program_id(1).to(tl.int64) * height * width * channels
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
    """GELU in the type of what is at `out`: exact in float32, else the polynomial."""
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
    """z = x + y + bias, or its first layer norm if `norms_first`; and the layer norm of z.

    x, y, out_sum (z, stored if `keeps`), out_normed: (count, channels). A program computes `tokens`
    rows of them.
    """
    t = tl.program_id(0) * tokens + tl.arange(0, tokens)
    c = tl.arange(0, lanes)
    has_c = c < channels
    inside = (t < count)[:, None] & has_c[None, :]
    at = t.to(tl.int64)[:, None] * channels + c[None, :]
    value = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if adds:
        value += tl.load(y + at, mask=inside, other=0).to(tl.float32)
    if has_bias:
        value += tl.load(bias + c, mask=has_c, other=0).to(tl.float32)[None, :]
    if norms_first:
        value = _normed(value, first_gain, first_shift, first_eps, c, has_c, channels)
    if keeps:
        kept = value.to(out_sum.dtype.element_ty)
        tl.store(out_sum + at, kept, mask=inside)
    normed = _normed(value, gain, shift, eps, c, has_c, channels)
    tl.store(out_normed + at, normed.to(out_normed.dtype.element_ty), mask=inside)


@triton.jit
def _normed(value, gain, shift, eps, c, has_c, channels):
    """The layer norm of float32 rows."""
    mean = tl.sum(value, axis=1) / channels
    distance = tl.where(has_c[None, :], value - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt_rn(tl.sum(distance * distance, axis=1) / channels + eps)
    weight = tl.load(gain + c, mask=has_c, other=0).to(tl.float32)
    moved = tl.load(shift + c, mask=has_c, other=0).to(tl.float32)
    return distance * scale[:, None] * weight[None, :] + moved[None, :]

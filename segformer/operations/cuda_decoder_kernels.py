"""Triton kernels of the head: from the projected coarser scales to logits.

In half precision one kernel does all of it, its products on the tensor cores. Those do not multiply
float32, so there a kernel does what lies between the library's two products.

`plain.decode` says in torch's words what they compute; shape suffixes as in `protocol`. From Xie et
al. 2021 (arXiv 2105.15203), section 3.2, and modeling_segformer.py of transformers (Apache-2.0).
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types.

from __future__ import annotations

import triton
import triton.language as tl


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
    """The whole head in half precision, for `pixels` pixels of a row of one image.

    Projects finest_NHWI, adds the coarser scales (one, two, three: projected, N h w C), upsampled,
    applies ReLU and classifies; out is N K H W. Upsampling is a product too: of weights, which are
    zero but for a pixel's two neighbors in each of two rows, and of the positions that the pixels
    lie between.
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
        total = tl.dot(features, projection)
        total += tl.load(bias + c, mask=has_c, other=0).to(tl.float32)[None, :]
        above, below = _rows(
            one, image, height, width, height_1, width_1, y, start, c, channels, span_1
        )
        total = tl.dot(upper_1, above, total)
        total = tl.dot(lower_1, below, total)
        above, below = _rows(
            two, image, height, width, height_2, width_2, y, start, c, channels, span_2
        )
        total = tl.dot(upper_2, above, total)
        total = tl.dot(lower_2, below, total)
        above, below = _rows(
            three, image, height, width, height_3, width_3, y, start, c, channels, span_3
        )
        total = tl.dot(upper_3, above, total)
        total = tl.dot(lower_3, below, total)
        total = tl.where(total < 0.0, 0.0, total)  # NaN stays
        weight = tl.load(
            last_weight + k[None, :] * channels + c[:, None],
            mask=(k < classes)[None, :] & has_c[:, None],
            other=0,
        )
        logits = tl.dot(total.to(kind), weight, logits)
    logits += tl.load(last_bias + k, mask=k < classes, other=0).to(tl.float32)[None, :]
    to = out + ((image * classes + k)[None, :] * height + y) * width + px[:, None]
    tl.store(to, logits.to(out.dtype.element_ty), mask=within & (k < classes)[None, :])


@triton.jit
def _place(at, size, coarser):
    """Positions of the finest map among those of a coarser one: the first neighbor, and the
    weight of the second."""
    place = tl.maximum((at + 0.5) * (coarser / size) - 0.5, 0.0)
    first = place.to(tl.int32)
    return first, place - first


@triton.jit
def _weights(  # noqa: PLR0913, PLR0917
    height, width, coarse_height, coarse_width, y, start, px, span: tl.constexpr, kind
):
    """The weights of `span` positions in the row above each pixel, and in the row below it."""
    _, weight_y = _place(y, height, coarse_height)
    left, weight_x = _place(px, width, coarse_width)
    right = tl.minimum(left + 1, coarse_width - 1)
    base, _ = _place(start, width, coarse_width)
    x = (base + tl.arange(0, span))[None, :]
    weight = tl.where(x == left[:, None], 1.0 - weight_x[:, None], 0.0)
    weight += tl.where(x == right[:, None], weight_x[:, None], 0.0)
    return (weight * (1.0 - weight_y)).to(kind), (weight * weight_y).to(kind)


@triton.jit
def _rows(  # noqa: PLR0913, PLR0917
    coarse,
    image,
    height,
    width,
    coarse_height,
    coarse_width,
    y,
    start,
    c,
    channels,
    span: tl.constexpr,
):
    """The values at the `span` positions that `_weights` weighs, in the rows above and below."""
    upper, _ = _place(y, height, coarse_height)
    lower = tl.minimum(upper + 1, coarse_height - 1)
    base, _ = _place(start, width, coarse_width)
    x = base + tl.arange(0, span)
    inside = (x < coarse_width)[:, None] & (c < channels)[None, :]
    at = x[:, None] * channels + c[None, :]
    above = coarse + (image * coarse_height + upper) * coarse_width * channels
    below = coarse + (image * coarse_height + lower) * coarse_width * channels
    return tl.load(above + at, mask=inside, other=0), tl.load(below + at, mask=inside, other=0)


@triton.jit
def upsampled_sum(  # noqa: PLR0913, PLR0917
    finest,
    one,
    two,
    three,
    bias,
    out,
    height,
    width,
    height_1,
    width_1,
    height_2,
    width_2,
    height_3,
    width_3,
    channels,
    pixels: tl.constexpr,
    lanes: tl.constexpr,
):
    """ReLU of the sum of finest_NHWC, a bias and three coarser scales (one, two, three: N h w C),
    upsampled; for `pixels` pixels and `lanes` channels of a row of one image."""
    parts = (channels + lanes - 1) // lanes
    c = tl.program_id(0) % parts * lanes + tl.arange(0, lanes)
    tile = tl.program_id(0) // parts
    across = (width + pixels - 1) // pixels
    y = tile // across
    px = tile % across * pixels + tl.arange(0, pixels)
    image = tl.program_id(1).to(tl.int64)
    has_c = c < channels
    inside = (px < width)[:, None] & has_c[None, :]
    at = ((image * height + y) * width + px)[:, None] * channels + c[None, :]
    total = tl.load(finest + at, mask=inside, other=0).to(tl.float32)
    total += tl.load(bias + c, mask=has_c, other=0).to(tl.float32)[None, :]
    total += _upsampled(one, image, height, width, height_1, width_1, y, px, c, channels, inside)
    total += _upsampled(two, image, height, width, height_2, width_2, y, px, c, channels, inside)
    total += _upsampled(three, image, height, width, height_3, width_3, y, px, c, channels, inside)
    total = tl.where(total < 0.0, 0.0, total)  # NaN stays
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _upsampled(  # noqa: PLR0913, PLR0917
    coarse, image, height, width, coarse_height, coarse_width, y, px, c, channels, inside
):
    """A coarser scale at pixels px of row y of the finest: bilinear, align_corners False."""
    upper, weight_y = _place(y, height, coarse_height)
    lower = tl.minimum(upper + 1, coarse_height - 1)
    left, weight_x = _place(px, width, coarse_width)
    right = tl.minimum(left + 1, coarse_width - 1)
    above = coarse + (image * coarse_height + upper) * coarse_width * channels + c[None, :]
    below = coarse + (image * coarse_height + lower) * coarse_width * channels + c[None, :]
    to_left, to_right = left[:, None] * channels, right[:, None] * channels
    above_left = tl.load(above + to_left, mask=inside, other=0).to(tl.float32)
    above_right = tl.load(above + to_right, mask=inside, other=0).to(tl.float32)
    below_left = tl.load(below + to_left, mask=inside, other=0).to(tl.float32)
    below_right = tl.load(below + to_right, mask=inside, other=0).to(tl.float32)
    at_left = above_left + weight_y * (below_left - above_left)
    at_right = above_right + weight_y * (below_right - above_right)
    return at_left + weight_x[:, None] * (at_right - at_left)

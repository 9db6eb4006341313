"""The Triton kernel that cuts windows from the pixels of a block and normalizes them.

The operations of `window_cutter.HostCutter` in their order, none of them fused: the bits are the
same.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton finds the types.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["height", "width", "slot", "scale", "offset"])
def cut_windows(  # noqa: PLR0913, PLR0917  a kernel's arguments are pointers and numbers
    values,
    valid,
    places,
    channels,
    out,
    height,
    width,
    slot,
    scale,
    offset,
    edge: tl.constexpr,
    channel_count: tl.constexpr,
    program_pixels: tl.constexpr,
):
    """Some pixels of a window, from values_CHW and valid_HW of its block to out_NHWC.

    places: top and left of each window of the batch; slot: the first of them that this launch cuts,
    and its place in the batch. channels: the means, then the standard deviations.
    """
    window = tl.program_id(1)
    at = tl.program_id(0) * program_pixels + tl.arange(0, program_pixels)
    y = tl.load(places + 2 * (slot + window)) + at // edge
    x = tl.load(places + 2 * (slot + window) + 1) + at % edge
    within = at < edge * edge
    inside = within & (y < height) & (x < width)
    place = y * width + x
    data = inside & (tl.load(valid + place, mask=inside, other=0) != 0)
    to = out + ((slot + window).to(tl.int64) * edge * edge + at) * channel_count
    for channel in tl.static_range(channel_count):
        at_channel = values + tl.cast(channel, tl.int64) * height * width + place
        raw = tl.load(at_channel, mask=data, other=0).to(tl.float32)
        moved = raw * scale + offset - tl.load(channels + channel)
        value = tl.div_rn(moved, tl.load(channels + channel_count + channel) + tl.zeros_like(moved))
        # NaN and infinite values, and what they lead to, say as little as what is not data.
        finite = tl.abs(value) < float("inf")
        value = tl.where(data & finite, value, 0.0)
        tl.store(to + channel, value.to(out.dtype.element_ty), mask=within)

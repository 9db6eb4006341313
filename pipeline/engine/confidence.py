"""The confidence of a pixel: the softmax of its mean logits at the winning class.

Sampled at one pixel in 16, by single float32 multiplications and additions, so that every blend on
every processor gives the same bits. This file has torch's operations, the oracle of the compiled
loops and of the GPU's kernel, and the constants that all of them share. Suffixes: K classes,
N pixels.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.unit import CONFIDENCE_SCALE

SAMPLE_STEP, SAMPLE_AT = 4, 2
"""Confidence is sampled where row and column of the scene leave 2 when divided by 4."""

MIN_EXPONENT = -87.0
"""Below, exp() leaves the normal numbers; a class so far behind weighs nothing."""
LOG2_E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts, the first with few digits, so that its products are exact."""
ROUNDING = 12582912.0
"""1.5 * 2**23: adding it and subtracting it again rounds a small float32 to an integer."""
EXP_TERMS = (
    *(1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3),
    *(4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1),
)
"""(exp(r) - 1 - r) / r**2 for |r| <= ln(2) / 2, highest power first: the Cephes library's expf."""


def winner_probability(total_KN: torch.Tensor, windows: int) -> torch.Tensor:
    """The softmax of the mean of the windows at its maximum, out of CONFIDENCE_SCALE: int64 (N).

    total_KN: float32, the sum over that number of windows. The classes are added in their order.
    """
    behind_KN = (total_KN - total_KN.amax(dim=0)) * float(np.float32(1 / windows))
    total_N = torch.zeros_like(behind_KN[0])
    for behind_N in behind_KN:
        total_N = total_N + exponential(behind_N)
    scale_N = torch.full_like(total_N, CONFIDENCE_SCALE)  # number / tensor would round twice
    return (scale_N / total_N + 0.5).long()


def exponential(x: torch.Tensor) -> torch.Tensor:
    """exp() of float32 values up to 0, the same on every processor. The relative error is below
    2e-7 down to MIN_EXPONENT; below it, the result is exp(MIN_EXPONENT)."""
    x = x.clamp_min(MIN_EXPONENT)
    power = (x * LOG2_E + ROUNDING) - ROUNDING
    rest = (x - power * LN2_HIGH) - power * LN2_LOW
    term = torch.full_like(x, EXP_TERMS[0])
    for coefficient in EXP_TERMS[1:]:
        term = term * rest + coefficient
    value = ((term * rest) * rest + rest) + 1
    return value * ((power.int() + 127) << 23).view(torch.float32)

"""A polynomial for GELU, whose error function takes longer than all the rest of a loop.

GELU is x Phi(x) with the normal distribution's Phi (Hendrycks and Gimpel 2016, arXiv 1606.08415).
"""

from __future__ import annotations

import math

import numpy as np


def gelu_terms(end: float, degree: int) -> list[float]:
    """The terms of the polynomial q, lowest power first, in GELU(x) = x (1/2 + c q(t)).

    c is x clamped to [-end, end], and t = 2 (c / end)^2 - 1 is in [-1, 1]. q interpolates
    erf(x / sqrt 2) / 2x at Chebyshev's points, in float64. end: where erf(x / sqrt 2) is as good
    as 1.
    """

    def q(t: np.ndarray) -> np.ndarray:
        x = end * np.sqrt((t + 1) / 2)
        return np.array([math.erf(value / math.sqrt(2)) / (2 * value) for value in x])

    # No Chebyshev point is an end of the interval: x is never 0.
    polynomial = np.polynomial.chebyshev.Chebyshev.interpolate(q, degree)
    terms: list[float] = polynomial.convert(kind=np.polynomial.Polynomial).coef.tolist()
    return terms

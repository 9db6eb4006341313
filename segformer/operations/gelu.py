"""Polynomials for GELU, whose error function takes longer than all the rest of a kernel."""

from __future__ import annotations

import math

import numpy as np


def gelu_terms(end: float, degree: int) -> list[float]:
    """GELU is x (1/2 + c q(t)) with c = x, but at most `end` and at least -`end`, and t = 2 (c /
    end)^2 - 1 between -1 and 1: the terms of q, lowest power first.

    q interpolates erf(x / sqrt 2) / 2x at Chebyshev's points, in float64. end: where erf(x / sqrt
    2) is as good as 1.
    """

    def q(t: np.ndarray) -> np.ndarray:
        x = end * np.sqrt((t + 1) / 2)
        return np.array([math.erf(each / math.sqrt(2)) / (2 * each) for each in x])

    # No point of Chebyshev's is an end of the interval: x is never 0.
    polynomial = np.polynomial.chebyshev.Chebyshev.interpolate(q, degree)
    terms: list[float] = polynomial.convert(kind=np.polynomial.Polynomial).coef.tolist()
    return terms

"""The order of mask tiles in a table: along a Hilbert curve over the world, so that neighbors on
the map share row groups. Pure integers."""

from __future__ import annotations

import numpy as np


def hilbert(lonlat: np.ndarray) -> np.ndarray:
    """The position of each (lon, lat) in degrees along the curve, int64.

    lonlat: float64 (n, 2); a place without coordinates (NaN) comes first, at -1. The classic
    bitwise walk, 16 bits per direction (https://en.wikipedia.org/wiki/Hilbert_curve).
    """
    known = np.isfinite(lonlat).all(axis=1)
    side = 1 << 16
    span = np.array([[360.0, 180.0]])
    cells = ((np.where(known[:, None], lonlat, 0.0) + span / 2) / span * side).astype(np.int64)
    x, y = np.clip(cells, 0, side - 1).T
    position = np.zeros(len(lonlat), np.int64)
    level = side >> 1
    while level:
        right, upper = (x & level) > 0, (y & level) > 0
        position += level * level * ((3 * right) ^ upper)
        flip = ~upper & right
        x, y = np.where(flip, side - 1 - x, x), np.where(flip, side - 1 - y, y)
        x, y = np.where(~upper, y, x), np.where(~upper, x, y)
        level >>= 1
    return np.where(known, position, -1)

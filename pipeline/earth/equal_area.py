"""Points of many grids in one plane, in which areas are those on Earth: around a pole, so that no
dateline cuts anything, north and south apart. Knows grids and CRS.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from pipeline.earth.crs import parse_crs
from pipeline.scene import Affine6

MAX_CRS = 1000
"""CRS that are looked at: each takes a millisecond."""


class Grid(NamedTuple):
    """The pixel grid of a raster."""

    crs: str
    """As CRS.from_user_input takes it."""
    transform: Affine6
    width: int
    height: int


def lonlat(
    grids: Sequence[Grid], across: np.ndarray, down: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes in radians of points (n, k) of the n grids, in sides of each; NaN
    outside the domain."""
    lon, lat = np.full((2, *across.shape), np.nan)
    by_crs: dict[str, list[int]] = {}
    for index, grid in enumerate(grids):
        by_crs.setdefault(grid.crs, []).append(index)
    for crs, indices in list(by_crs.items())[:MAX_CRS]:
        a, b, c, d, e, f = np.array([grids[i].transform for i in indices]).T[:, :, None]
        sides = np.array([(grids[i].width, grids[i].height) for i in indices]).T[:, :, None]
        cols, rows = across[indices] * sides[0], down[indices] * sides[1]
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        with suppress(ValueError):  # no place on Earth
            places = parse_crs(crs).lonlat(x.ravel(), y.ravel())
            lon[indices], lat[indices] = (axis.reshape(x.shape) for axis in places)
    return lon, lat


def plane(lon: np.ndarray, lat: np.ndarray, south: np.ndarray) -> np.ndarray:
    """x and y (n, k, 2) in Lambert's azimuthal equal-area projection around a pole; the south is
    moved aside."""
    radius = 2 * np.sin((np.pi / 2 - np.where(south, -lat, lat)) / 2)
    aside = np.where(south, 10.0, 0.0)
    return np.stack([radius * np.cos(lon) + aside, radius * np.sin(lon)], axis=-1)

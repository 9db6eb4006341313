"""The area of a pixel by pyproj alone: its outline, on a fine lattice of points, in an equal-area
projection around the pixel. Takes nothing from pipeline.
"""

from __future__ import annotations

import math

import numpy as np
import pyproj

POINTS = 64
"""Points on each side of a pixel: a chord's error is below 1e-6 of the area of pixels of 1,000
km."""
WGS84 = pyproj.Geod(ellps="WGS84")
_EARTH_M = (6.3e6, 6.4e6)
"""Between which the Earth's radius is."""


class PixelAreas:
    """The pixels of a grid as areas on the ellipsoid of its CRS; on WGS 84 for spheres, whose
    latitudes are geodetic by convention."""

    def __init__(self, crs_wkt: str, transform: tuple[float, ...]) -> None:
        """transform: a to f of an affine transform. Raises ValueError for a CRS without
        longitudes and latitudes."""
        crs = pyproj.CRS.from_wkt(crs_wkt)
        crs = crs.sub_crs_list[0] if crs.is_compound else crs
        crs = crs.source_crs or crs if crs.is_bound else crs
        base = crs if crs.is_geographic and not crs.is_derived else crs.source_crs
        if base is None or not base.is_geographic or crs.ellipsoid is None:
            raise ValueError(f"{crs.name} has no longitudes and latitudes")
        self._to_base = pyproj.Transformer.from_crs(crs, base, always_xy=True)
        self._degrees = math.degrees(base.axis_info[0].unit_conversion_factor)
        self._turn = 2 * math.pi / base.axis_info[0].unit_conversion_factor
        self._is_geographic = crs.is_geographic
        self._unit_m = crs.axis_info[0].unit_conversion_factor * (
            WGS84.a if crs.is_geographic else 1
        )
        self._transform = transform
        is_sphere = not crs.ellipsoid.inverse_flattening
        self.is_earth = _EARTH_M[0] < crs.ellipsoid.semi_major_metre < _EARTH_M[1]
        self._axes = (WGS84.a, WGS84.b)
        if not (is_sphere and self.is_earth):
            self._axes = crs.ellipsoid.semi_major_metre, crs.ellipsoid.semi_minor_metre

    @property
    def is_wider_than_the_world(self) -> bool:
        """Whether a pixel goes around the Earth."""
        a, _, _, d, _, _ = self._transform
        return bool(self._is_geographic and math.hypot(a, d) > self._turn)

    def of(self, col: int, row: int) -> float | None:
        """The area of a pixel in m2; None where a part of it has no place."""
        steps = np.arange(POINTS) / POINTS
        zero, one = np.zeros(POINTS), np.ones(POINTS)
        cols = col + np.concatenate([steps, one, 1 - steps, zero, [0.5]])
        rows = row + np.concatenate([zero, steps, one, 1 - steps, [0.5]])
        a, b, c, d, e, f = self._transform
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        lon, lat = self._to_base.transform(x, y)
        if not self._is_inside(x, y, lon, lat):
            return None
        lon, lat = lon * self._degrees, lat * self._degrees
        semi_major, semi_minor = self._axes
        laea = pyproj.Proj(
            proj="laea", lat_0=lat[-1], lon_0=lon[-1] % 360, a=semi_major, b=semi_minor
        )
        east, north = laea(lon[:-1] % 360, lat[:-1])
        return abs(float((east * np.roll(north, -1) - np.roll(east, -1) * north).sum())) / 2

    def _is_inside(self, x: np.ndarray, y: np.ndarray, lon: np.ndarray, lat: np.ndarray) -> bool:
        """Whether all points have a place, and it leads back to them, but for whole turns."""
        if not (np.isfinite(lon).all() and (np.abs(lat) * self._degrees <= 90).all()):
            return False
        back_x, back_y = self._to_base.transform(lon, lat, direction="INVERSE")
        off = np.abs(back_x - x)
        if self._is_geographic:
            off = np.minimum(off % self._turn, -off % self._turn)
        return bool((np.maximum(off, np.abs(back_y - y)) * self._unit_m < 1000).all())

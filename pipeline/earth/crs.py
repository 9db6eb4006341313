"""A CRS as the way from its coordinates to places on Earth. Knows no grid, scene, file or class.

Imports pyproj, as does `outline`, which builds on this file. A CRS is converted to its own
ellipsoid, never to another datum: one operation for every point, smooth enough to be
differentiated. Datum shifts are nearly isometric, so that WGS 84 areas differ by some 1e-5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyproj
import pyproj.datadir
import pyproj.network

WGS84_A_M = 6378137.0
WGS84_F = 1 / 298.257223563
PROJ_DATA = Path(pyproj.__file__).parent / "proj_dir" / "share" / "proj"
"""The folder of pyproj's own data, next to its code. Some builds (conda, Debian) have none there,
and look where their makers have them look."""
WRAPPED_M = 1000.0
"""A point that returns from the ellipsoid farther away than this was outside the domain."""

if PROJ_DATA.is_dir():
    pyproj.datadir.set_data_dir(PROJ_DATA)


@dataclass(frozen=True)
class EllipsoidCrs:
    """A CRS as the way from its coordinates to longitude and latitude on its own ellipsoid."""

    transformer: pyproj.Transformer | None
    """The conversion to longitude and latitude; None if the coordinates are these already."""
    angle_rad: float
    """The unit of longitude and latitude in radians: degrees, but grads in France."""
    unit_m: float
    """The unit of the coordinates in meters; on geographic grids its length on the equator."""
    a_m: float
    """The ellipsoid's semi-major axis; that of WGS 84 for spheres, whose latitudes are geodetic by
    convention (MODIS)."""
    e2: float
    """The square of the ellipsoid's eccentricity; again that of WGS 84 for spheres."""
    cylindrical: bool
    """Whether every x is a meridian, so that the CRS continues beyond the dateline."""

    def lonlat(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes in radians, NaN for points that have none."""
        lon, lat = (x, y) if self.transformer is None else self.transformer.transform(x, y)
        lon, lat = lon * self.angle_rad, lat * self.angle_rad
        good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= math.pi / 2 + 1e-12)
        return np.where(good, lon, np.nan), np.where(good, lat, np.nan)

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """bool: whether each point is in the domain, i.e. its longitude and latitude lead back to
        it."""
        lon, lat = self.lonlat(x, y)
        good = np.isfinite(lat)
        if self.transformer is None or self.cylindrical:
            return good
        back_x, back_y = self.transformer.transform(
            np.where(good, lon, 0.0) / self.angle_rad,
            np.where(good, lat, 0.0) / self.angle_rad,
            direction="INVERSE",
        )
        off_m = np.maximum(np.abs(back_x - x), np.abs(back_y - y)) * self.unit_m
        return good & (off_m < WRAPPED_M)


@lru_cache(maxsize=256)
def parse_crs(crs: str) -> EllipsoidCrs:
    """The CRS for text that CRS.from_user_input takes. Raises ValueError if pyproj does not know it
    or it has no place on Earth."""
    pyproj.network.set_network_enabled(False)
    try:
        horizontal = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"crs {crs!r}: pyproj does not know it ({reason})") from error
    if horizontal.is_compound:
        horizontal = horizontal.sub_crs_list[0]
    horizontal = (horizontal.source_crs or horizontal) if horizontal.is_bound else horizontal
    geographic = horizontal.is_geographic and not horizontal.is_derived
    base = horizontal if geographic else horizontal.source_crs
    if base is None or not base.is_geographic or horizontal.ellipsoid is None:
        raise ValueError(
            f"crs {crs!r} ({horizontal.type_name}) has no longitudes and latitudes behind it;"
            " give the raster a geographic or projected CRS"
        )
    a_m, inverse_f = horizontal.ellipsoid.semi_major_metre, horizontal.ellipsoid.inverse_flattening
    a_m, f = (a_m, 1 / inverse_f) if inverse_f else (WGS84_A_M, WGS84_F)
    unit = horizontal.axis_info[0].unit_conversion_factor
    transformer = None
    if not geographic:
        transformer = pyproj.Transformer.from_crs(horizontal, base, always_xy=True, only_best=False)
    return EllipsoidCrs(
        transformer=transformer,
        angle_rad=base.axis_info[0].unit_conversion_factor,
        unit_m=unit * WGS84_A_M if horizontal.is_geographic else unit,
        a_m=a_m,
        e2=f * (2 - f),
        cylindrical=transformer is not None and _meridians_are_columns(transformer, unit),
    )


def _meridians_are_columns(transformer: pyproj.Transformer, unit: float) -> bool:
    """Whether two points with the same x have the same longitude."""
    x, y = np.array([1e6, 1e6]) / unit, np.array([0.0, 3e6]) / unit
    lon, _ = transformer.transform(x, y)
    return bool(np.isfinite(lon).all() and abs(lon[1] - lon[0]) < 1e-9)

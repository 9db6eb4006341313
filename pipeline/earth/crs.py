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
BODY_TOLERANCE = 0.01
"""The relative difference of semi-major axes from which on an ellipsoid is not the Earth's: its own
differ by 0.3 %, and the next body, Venus, by 5 %."""
WRAPPED_M = 1000.0
"""A point that returns from the ellipsoid farther away than this was outside the domain."""

if PROJ_DATA.is_dir():
    pyproj.datadir.set_data_dir(PROJ_DATA)


class OtherBodyError(ValueError):
    """A CRS of another celestial body than the Earth."""

    def __init__(self, body: str) -> None:
        super().__init__(f"is a CRS of {body}, not of the Earth")
        self.body = body
        """Its name, if the CRS has one, and its size."""


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
    to_crs84: pyproj.Transformer
    """The conversion of the coordinates to OGC:CRS84, which may shift the datum."""

    @property
    def world(self) -> tuple[float, float]:
        """The extent of the Earth in x and y, in the unit of the coordinates: a turn and half a
        turn, or the equator's length in both, as in Mercator."""
        if self.transformer is None:
            return 2 * math.pi / self.angle_rad, math.pi / self.angle_rad
        equator = 2 * math.pi * self.a_m / self.unit_m
        return equator, equator

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
    or it has no place on Earth, OtherBodyError if it is that of another body."""
    pyproj.network.set_network_enabled(False)
    try:
        return _ellipsoid_crs(crs, pyproj.CRS.from_user_input(crs))
    except pyproj.exceptions.CRSError as error:
        raise ValueError(f"crs {crs!r}: pyproj does not know it ({_reason(error)})") from error
    except pyproj.exceptions.ProjError as error:
        raise ValueError(f"crs {crs!r}: pyproj cannot convert it ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0]


def _ellipsoid_crs(crs: str, parsed: pyproj.CRS) -> EllipsoidCrs:
    horizontal = parsed
    while horizontal.is_compound or horizontal.is_bound:
        inner = horizontal.source_crs if horizontal.is_bound else horizontal.sub_crs_list[0]
        if inner is None:
            break
        horizontal = inner
    geographic = horizontal.is_geographic and not horizontal.is_derived
    base = horizontal if geographic else horizontal.source_crs
    if base is None or not base.is_geographic or horizontal.ellipsoid is None:
        raise ValueError(
            f"crs {crs!r} ({horizontal.type_name}) has no longitudes and latitudes behind it;"
            " give the raster a geographic or projected CRS"
        )
    a_m, inverse_f = horizontal.ellipsoid.semi_major_metre, horizontal.ellipsoid.inverse_flattening
    if not abs(a_m / WGS84_A_M - 1) <= BODY_TOLERANCE:
        raise OtherBodyError(_body(horizontal, a_m))
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
        # Not the best operation alone, which might need a grid that is not there: PROJ's own
        # default, unless a variable says otherwise.
        to_crs84=pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True, only_best=False),
    )


def _body(crs: pyproj.CRS, a_m: float) -> str:
    """The body of a CRS, as its datum or its ellipsoid calls it: `Mars (2015) - Sphere, of radius
    3,396.2 km`."""
    names = [part.name for part in (crs.datum, crs.ellipsoid) if part is not None]
    name = next((name for name in names if name.lower() not in ("", "unknown")), "an unnamed body")
    return f"{name}, of radius {a_m / 1000:,.1f} km"


def _meridians_are_columns(transformer: pyproj.Transformer, unit: float) -> bool:
    """Whether two points with the same x have the same longitude."""
    x, y = np.array([1e6, 1e6]) / unit, np.array([0.0, 3e6]) / unit
    lon, _ = transformer.transform(x, y)
    return bool(np.isfinite(lon).all() and abs(lon[1] - lon[0]) < 1e-9)

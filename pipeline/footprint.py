"""Outlines of pixel rectangles on Earth. Knows grids and CRS; no scene, file, class or mask.

The door to shapely, and with `area` one of the two to pyproj. An outline is traced in longitude
and latitude, where the ring of a polar tile does not close and that of a tile at the dateline
jumps: longitudes are followed continuously, poles are closed along their parallel of 90 degrees,
and what leaves -180..180 is cut and moved back (RFC 7946, section 3.1.9).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import shapely

from pipeline.area import Ground, ground
from pipeline.scene import Affine6, Rect

TOLERANCE = 5e-5
"""How far an edge may leave the true one, in sides of the rect."""
SMALL_M = 100e3
"""Edges shorter than this start undivided: halfway is where they are bent most."""
POLE_TOLERANCE = 1e-6
"""A pole this near to an edge, in sides of the rect, lies on it."""
MAX_ROUNDS = 16
CLIP_CELLS = 32
"""A rect that leaves the CRS's domain is cut to those of its 32 x 32 cells that lie inside."""
SNAP_DEG = 1e-9


@dataclass(frozen=True)
class Footprint:
    """Where on Earth a pixel rectangle lies, in OGC:CRS84 (longitude, latitude; degrees)."""

    wkb: bytes
    """A valid Polygon or MultiPolygon, exterior rings counterclockwise."""
    bbox: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax; -180..180 where it crosses the dateline or holds a pole."""


@dataclass(frozen=True)
class _Earth:
    ground: Ground
    transformer: pyproj.Transformer
    poles: tuple[tuple[float, float, float], ...]
    """latitude, x, y of the poles that are points of the CRS's plane."""

    def lonlat(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lon, lat = self.transformer.transform(x, y)
        return lon, lat


@lru_cache(maxsize=256)
def _earth(crs: str) -> _Earth:
    base = ground(crs)
    poles = []
    if base.transformer is not None and not base.cylindrical:
        quarter = np.pi / 2 / base.angle_rad
        for sign in (1, -1):
            lon, lat = np.array([0.0, quarter]), np.full(2, sign * quarter)
            x, y = base.transformer.transform(lon, lat, direction="INVERSE")
            if np.ptp(x) + np.ptp(y) < 1e-3 and base.inside(x, y).all():
                poles.append((sign * 90.0, float(x[0]), float(y[0])))
    transformer = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    return _Earth(base, transformer, tuple(poles))


def footprint(crs: str, transform: Affine6, rect: Rect) -> Footprint | None:
    """The outline of `rect` (pixels of the grid of `transform`); None if wholly off the domain.

    Edges leave the true ones by less than 1e-4 of the rect's side. ValueError where the CRS has
    no place on Earth.
    """
    earth = _earth(crs)
    corners = np.array(
        [
            (rect.col_off, rect.row_off),
            (rect.col_off, rect.row_end),
            (rect.col_end, rect.row_end),
            (rect.col_end, rect.row_off),
        ],
        dtype=np.float64,
    )
    if earth.ground.transformer is None:
        shape = _geographic(earth, transform, corners)
    else:
        outline = _Outline(earth, transform, corners)
        shape = outline.shape() if outline.inside(corners).all() else _clipped(outline, rect)
    if not shape.is_valid:
        shape = _polygons(shapely.make_valid(shape))
    if shape.is_empty:
        return None
    shape = shapely.orient_polygons(shape, exterior_cw=False)
    return Footprint(wkb=shapely.to_wkb(shape), bbox=shape.bounds)


def _geographic(earth: _Earth, transform: Affine6, corners: np.ndarray) -> shapely.Geometry:
    """Edges of such a grid are straight in longitude and latitude: its corners say it all."""
    to_deg = np.degrees(earth.ground.angle_rad)
    raw = shapely.Polygon(np.column_stack(_apply(transform, corners)) * to_deg)
    west, south, east, north = raw.bounds
    if south < -90 or north > 90:
        raw = _polygons(raw.intersection(shapely.box(west, -90, east, 90)))
        if raw.is_empty:
            return raw
    ring = shapely.get_coordinates(shapely.get_parts(raw)[0])
    lon, lat = earth.lonlat(*(ring / to_deg).T)
    # The transformer may wrap; the grid's own longitudes go on beyond 180.
    return _wrapped(ring[:, 0] + _wrap(lon - ring[:, 0]), lat)


class _Outline:
    """Traces rings of pixel positions on Earth."""

    def __init__(self, earth: _Earth, transform: Affine6, corners: np.ndarray) -> None:
        self._earth = earth
        self._transform = transform
        self._side_px = float(np.ptp(corners, axis=0).min())
        self._centre = corners.mean(axis=0)
        a, b, c, d, e, f = transform
        pixel = max(np.hypot(a, d), np.hypot(b, e))
        self._first = np.arange(4 if self._side_px * pixel * earth.ground.unit_m > SMALL_M else 1)
        inverse = np.linalg.inv([[a, b], [d, e]])
        self._poles = [(lat, inverse @ (x - c, y - f)) for lat, x, y in earth.poles]
        self._ring = corners

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Bool per pixel position: it lies in the CRS's domain."""
        return self._earth.ground.inside(*_apply(self._transform, points))

    def shape(self, ring: np.ndarray | None = None) -> shapely.Geometry:
        """The polygon of one ring of pixel positions (k, 2), not closed, inside the domain."""
        corners = self._ring if ring is None else ring
        lon, lat, points = self._densified(self._started(corners))
        for pole_lat, at in self._poles:
            lat[self._near(points, at, 3 * POLE_TOLERANCE)] = pole_lat
        steps = _wrap(np.diff(lon, append=lon[0]))
        lon = lon[0] + np.concatenate([[0.0], np.cumsum(steps)])
        turns = round(float(lon[-1] - lon[0]) / 360)
        if not self._poles or not any(lat_ok for lat_ok in (turns,)):
            shape = _wrapped(lon[:-1], lat)
            return shape if not self._holds_both(corners) else _whole().difference(shape)
        held = [pole for pole, at in self._poles if self._holds(corners, at)]
        pole_lat = held[0] if held else np.copysign(90.0, lat.mean())
        return _wrapped(
            np.concatenate([lon, lon[[-1, 0]]]),
            np.concatenate([lat, lat[:1], [pole_lat, pole_lat]]),
        )

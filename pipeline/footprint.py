"""Outlines of pixel rectangles on Earth. Knows grids and CRS; no scene, file, class or mask.

The door to shapely, and with `area` one of the two to pyproj. An outline is traced in longitude
and latitude, where the ring of a polar tile does not close and that of a tile at the dateline
jumps: longitudes are followed on, poles are closed along their parallel of 90 degrees, and what
leaves -180..180 is cut and moved back (RFC 7946, section 3.1.9).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import shapely

from pipeline.ground import Ground, ground
from pipeline.scene import Affine6, Rect

TOLERANCE = 5e-5
"""How far an edge may leave the true one halfway between two vertices, in sides of the rect."""
SMALL_M = 100e3  # edges shorter than this start undivided: they are bent most halfway
POLE_TOLERANCE = 1e-5
"""A pole this near to an edge, in sides of the rect, lies on it."""
MAX_ROUNDS = 20
CLIP_STEPS = 32  # the part of a rect inside the domain is looked for at 33 x 33 places
SNAP_DEG = 1e-9
LON_STEPS = 2.0**40
"""Longitudes are multiples of 2**-40 degrees (0.1 micrometres), so that +-360 is exact."""


@dataclass(frozen=True)
class Footprint:
    """Where on Earth a pixel rectangle lies, in OGC:CRS84 (longitude, latitude; degrees)."""

    wkb: bytes
    """A valid Polygon or MultiPolygon, exterior rings counterclockwise."""
    bbox: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax; -180..180 where it crosses the dateline or holds a pole."""


@lru_cache(maxsize=256)
def _earth(crs: str) -> tuple[Ground, pyproj.Transformer, list[tuple[float, float, float]]]:
    """Its Ground, the way to OGC:CRS84; latitude, x, y of poles that are points of its plane."""
    base, poles = ground(crs), []
    if base.transformer is not None and not base.cylindrical:
        quarter = np.pi / 2 / base.angle_rad
        for sign in (1.0, -1.0):
            lon, lat = np.array([0.0, quarter]), np.full(2, sign * quarter)
            x, y = base.transformer.transform(lon, lat, direction="INVERSE")
            if np.isfinite(x + y).all() and np.ptp(x) + np.ptp(y) < 1e-3:
                poles.append((sign * 90.0, float(x[0]), float(y[0])))
    return base, pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True), poles


def footprint(crs: str, transform: Affine6, rect: Rect) -> Footprint | None:
    """The outline of `rect` (pixels of the grid of `transform`); None if wholly off the domain.

    Edges leave the true ones by less than 1e-4 of the rect's side; a part outside the domain is
    cut off. ValueError where the CRS has no place on Earth.
    """
    left, top, right, low = rect.col_off, rect.row_off, rect.col_end, rect.row_end
    corners = np.array([(left, top), (left, low), (right, low), (right, top)], dtype=np.float64)
    if ground(crs).transformer is None:
        shape = _geographic(crs, transform, corners)
    else:
        shape = _Outline(crs, transform, corners).shape()
    if shape.is_empty:
        return None
    wkb = shapely.to_wkb(shapely.orient_polygons(shape, exterior_cw=False))
    return Footprint(wkb=wkb, bbox=shape.bounds)


def _geographic(crs: str, transform: Affine6, corners: np.ndarray) -> shapely.Geometry:
    """Edges of such a grid are straight in longitude and latitude: its corners say it all."""
    base, transformer, _ = _earth(crs)
    to_deg = np.degrees(base.angle_rad)
    raw = shapely.Polygon(np.column_stack(_apply(transform, corners)) * to_deg)
    if raw.bounds[1] < -90 or raw.bounds[3] > 90:
        raw = _polygons(raw.intersection(shapely.box(raw.bounds[0], -90, raw.bounds[2], 90)))
    if raw.is_empty:
        return raw
    ring = shapely.get_coordinates(raw)[:-1]
    lon, lat = transformer.transform(*(ring / to_deg).T)
    # The transformer may wrap; the grid's own longitudes go on beyond 180.
    return _wrapped(_quantised(ring[:, 0] + _short(lon - ring[:, 0])), lat)


class _Outline:
    """Traces the rect of a grid that is not geographic."""

    def __init__(self, crs: str, transform: Affine6, corners: np.ndarray) -> None:
        self._ground, self._transformer, poles = _earth(crs)
        self._transform, self._corners = transform, corners
        self._centre = corners.mean(axis=0)
        self._side_px = float(np.ptp(corners, axis=0).max())
        a, b, c, d, e, f = transform
        self._long = self._side_px * np.hypot(a, d) * self._ground.unit_m > SMALL_M
        self._poles, det = [], a * e - b * d
        for lat, x, y in poles:
            at = np.array([e * (x - c) - b * (y - f), a * (y - f) - d * (x - c)]) / det
            if np.abs(at - self._centre).max() < 3 * self._side_px:
                self._poles.append((lat, at))  # those farther off bend nothing

    def shape(self) -> shapely.Geometry:
        """The polygons of the part inside the CRS's domain, in degrees; may be empty."""
        if self._inside(self._start(self._corners)).all():
            return self._traced(self._corners)
        return self._traced(ring) if len(ring := self._clipped()) > 2 else shapely.MultiPolygon()

    def _inside(self, points: np.ndarray) -> np.ndarray:
        return self._ground.inside(*_apply(self._transform, points))

    def _clipped(self) -> np.ndarray:
        """Pixel ring (k, 2) around what rays from its middle see of the domain; may be empty.

        That is all of it where the domain is convex, as those of world maps and disks are.
        """
        low, high = self._corners[[0, 2]]
        grid = np.meshgrid(*np.linspace(low, high, CLIP_STEPS + 1).T)
        nodes = np.column_stack([axis.ravel() for axis in grid])
        nodes = nodes[self._inside(nodes)]
        if not len(nodes):
            return nodes
        middle = nodes[np.argmin(np.abs(nodes - nodes.mean(axis=0)).sum(axis=1))]
        share = np.linspace(0, 1, 2 * CLIP_STEPS, endpoint=False)[:, None]
        edges = np.roll(self._corners, -1, axis=0) - self._corners
        ends = (self._corners[:, None] + share * edges[:, None]).reshape(-1, 2)
        reach = self._inside(ends).astype(np.float64)
        for step in 0.5 ** np.arange(1, 40):
            further = np.minimum(reach + step, 1.0)
            seen = self._inside(middle + further[:, None] * (ends - middle))
            reach[seen] = further[seen]
        ring = middle + reach[:, None] * (ends - middle)
        return ring[np.hypot(*(ring - np.roll(ring, 1, axis=0)).T) > 0]

    def _traced(self, ring: np.ndarray) -> shapely.Geometry:
        points, lon, lat = self._densified(self._start(ring))
        for pole_lat, at in self._poles:
            lat[self._near(points, at, 4)] = pole_lat
        steps = _short(np.diff(lon, append=lon[0]))
        turns, lon = round(steps.sum() / 360), _quantised(lon[0] + np.cumsum(steps) - steps)
        held = [p for p, at in self._poles if shapely.contains_xy(shapely.Polygon(ring), *at)]
        if turns == 0:
            shape = _wrapped(lon, lat)
            # With both poles inside, the ring goes round what is left out.
            return shapely.box(-180, -90, 180, 90).difference(shape) if len(held) == 2 else shape
        end = lon[0] + 360 * turns
        pole_lat = held[0] if held else float(np.copysign(90, lat.mean()))
        lat = np.append(lat, [lat[0], pole_lat, pole_lat])
        return _wrapped(np.append(lon, [end, end, lon[0]]), lat)

    def _near(self, points: np.ndarray, pole: np.ndarray, factor: float = 1) -> np.ndarray:
        return np.hypot(*(points - pole).T) < factor * POLE_TOLERANCE * self._side_px

    def _start(self, ring: np.ndarray) -> np.ndarray:
        """The ring's corners, quarters of long edges, and what the poles ask for.

        An edge is divided where it comes nearest to a pole, so that no longitude turns by 180
        degrees between two vertices. A pole on the ring becomes three vertices: the longitudes
        of its neighbours and, between them, that of the rect's inside.
        """
        quarters = [0.0, 0.25, 0.5, 0.75] if self._long and len(ring) == 4 else [0.0]
        points: list[np.ndarray] = []
        for p, q in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            edge, shares = q - p, quarters[:]
            shares += [np.dot(pole - p, edge) / np.dot(edge, edge) for _, pole in self._poles]
            points += [p + share * edge for share in sorted({*shares}) if 0 <= share < 1 - 1e-7]
        start = np.array(points)
        for at in [at for _, at in self._poles if self._near(start, at).any()]:
            start = self._split(at, start)
        return start

    def _split(self, pole: np.ndarray, points: np.ndarray) -> np.ndarray:
        near = self._near(points, pole)
        far = np.roll(points, -int(np.argmax(near & ~np.roll(near, 1))), axis=0)[near.sum() :]
        ways = np.stack([far[-1], self._centre, far[0]]) - pole
        ways *= 2 * POLE_TOLERANCE * self._side_px / np.hypot(*ways.T)[:, None]
        return np.concatenate([pole + ways, far])

    def _densified(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixel positions (k, 2), longitudes and latitudes of a ring that follows the true one.

        Segments are halved until their middle lies near the straight line, as on the ground.
        """
        ring = np.column_stack([points, *self._lonlat(points)])
        ring = ring[np.isfinite(ring).all(axis=1)]
        lon, lat = np.radians(ring[:, 2:].T)
        space = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
        tolerance = TOLERANCE * np.degrees(max(np.ptp(axis) for axis in space))
        active = np.arange(len(ring))
        for _ in range(MAX_ROUNDS):
            here, there = ring[active], ring[(active + 1) % len(ring)]
            middle = (here[:, :2] + there[:, :2]) / 2
            lon, lat = self._lonlat(middle)
            lon[np.isinf(lon)] = lat[np.isinf(lat)] = np.nan  # never bent
            east, north = _short(there[:, 2] - here[:, 2]), there[:, 3] - here[:, 3]
            shrink = np.cos(np.radians(lat))
            cross = np.abs(east * (lat - here[:, 3]) - north * _short(lon - here[:, 2])) * shrink
            bent = cross > tolerance * np.hypot(east * shrink, north)
            if not bent.any():
                break
            places = active[bent] + 1
            ring = np.insert(ring, places, np.column_stack([middle, lon, lat])[bent], axis=0)
            places += np.arange(len(places))
            active = np.union1d(places, places - 1)
        return ring[:, :2], ring[:, 2], ring[:, 3]

    def _lonlat(self, points: np.ndarray) -> np.ndarray:
        return np.stack(self._transformer.transform(*_apply(self._transform, points)))


def _apply(transform: Affine6, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (a, b, c, d, e, f), (cols, rows) = transform, points.T
    return a * cols + b * rows + c, d * cols + e * rows + f


def _short(step_deg: np.ndarray) -> np.ndarray:
    """A difference of longitudes by the shorter way round, in [-180, 180)."""
    return np.mod(step_deg + 180, 360) - 180


def _quantised(lon: np.ndarray) -> np.ndarray:
    edges = np.round(lon / 180) * 180
    fine = np.round(lon * LON_STEPS) / LON_STEPS
    return np.where(np.abs(lon - edges) < SNAP_DEG, edges, fine) + 0.0  # no -0.0


def _wrapped(lon: np.ndarray, lat: np.ndarray) -> shapely.Geometry:
    """The polygon of a ring with continuous longitudes, cut at the dateline."""
    first, last = int((lon.min() + 180) // 360), -int((180 - lon.max()) // 360)
    shape = shapely.Polygon(np.column_stack([lon - 360 * first, lat]))
    if not shape.is_valid:
        shape = _polygons(shapely.make_valid(shape))
    if last <= first:
        return shape
    pieces = []
    for turn in range(last - first + 1):
        piece = shape.intersection(shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        pieces.append(shapely.transform(piece, lambda at, by=360 * turn: at - [by, 0]))
    return _polygons(shapely.union_all(pieces).simplify(0))


def _polygons(shape: shapely.Geometry) -> shapely.Geometry:
    """Only what has an area: lines, points and slivers left over by clipping are dropped."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    area = shapely.area(parts)
    parts = parts[area > 1e-12 * area.sum()]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))

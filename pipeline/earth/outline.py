"""The outline of one pixel rectangle of a projected grid, however difficult.

The rectangle may reach beyond the CRS's domain, contain or touch a pole, or be so long that its
edges bend both ways. Knows no scene, file or class.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import shapely

from pipeline.earth.crs import EllipsoidCrs, parse_crs
from pipeline.earth.rings import densified, polygons, unwrapped
from pipeline.scene import Affine6

SMALL_M = 100e3
"""Shorter edges start undivided: they bend most in their middle."""
POLE_TOLERANCE = 1e-5
"""A pole this near to an edge, in sides of the rect, is on it."""
CLIP_STEPS = 32
"""The part of a rect inside the domain is searched for at 33 x 33 points."""


@lru_cache(maxsize=256)
def _plane_of(
    crs: str,
) -> tuple[EllipsoidCrs, list[tuple[float, float, float]]]:
    """The CRS, and latitude, x, y of the poles that are points of its plane."""
    base, poles = parse_crs(crs), []
    if base.transformer is not None and not base.cylindrical:
        quarter = np.pi / 2 / base.angle_rad
        for sign in (1.0, -1.0):
            lon, lat = np.array([0.0, quarter]), np.full(2, sign * quarter)
            x, y = base.transformer.transform(lon, lat, direction="INVERSE")
            if np.isfinite(x + y).all() and np.ptp(x) + np.ptp(y) < 1e-3:
                poles.append((sign * 90.0, float(x[0]), float(y[0])))
    return base, poles


class Plane:
    """A grid in the plane of its CRS, and the places of its points on Earth. Points are (k, 2):
    column, row."""

    def __init__(self, crs: str, transform: Affine6) -> None:
        """Raises ValueError if the CRS has no place on Earth."""
        self.crs, poles = _plane_of(crs)
        self._transform = transform
        a, b, c, d, e, f = transform
        self._pixel, det = np.hypot(a, d), a * e - b * d
        self.poles = [
            (lat, np.array([e * (x - c) - b * (y - f), a * (y - f) - d * (x - c)]) / det)
            for lat, x, y in poles
        ]
        """Latitude and point of each pole that is a point of the plane."""

    def places(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The points' x and y in the CRS."""
        (a, b, c, d, e, f), (cols, rows) = self._transform, points.T
        return a * cols + b * rows + c, d * cols + e * rows + f

    def lonlat(self, points: np.ndarray) -> np.ndarray:
        """The points' longitudes and latitudes (2, k), degrees."""
        return np.stack(self.crs.to_crs84.transform(*self.places(points)))

    def inside(self, points: np.ndarray) -> np.ndarray:
        """bool (k,): whether each point is in the CRS's domain."""
        return self.crs.inside(*self.places(points))

    def long(self, corners: np.ndarray) -> np.ndarray:
        """bool: whether the edges of rects (..., 4, 2) must start as quarters."""
        return _side_px(corners) * self._pixel * self.crs.unit_m > SMALL_M

    def bent_by(self, pole: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """bool: whether the pole is in or near each of the rects (..., 4, 2)."""
        return np.abs(pole - corners.mean(axis=-2)).max(axis=-1) < 3 * _side_px(corners)


def _side_px(corners: np.ndarray) -> np.ndarray:
    return np.ptp(corners, axis=-2).max(axis=-1)


class Outline:
    """The outline of the rect with these corners (4, 2)."""

    def __init__(self, plane: Plane, corners: np.ndarray) -> None:
        self._plane, self._corners = plane, corners
        self._centre, self._side_px = corners.mean(axis=0), _side_px(corners)
        self._poles = [(lat, at) for lat, at in plane.poles if plane.bent_by(at, corners)]

    def shape(self) -> shapely.Geometry:
        """The polygons of the part inside the CRS's domain, in degrees; may be empty."""
        if self._plane.inside(self._start(self._corners)).all():
            return self._traced(self._corners)
        return self._traced(ring) if len(ring := self._clipped()) > 2 else shapely.MultiPolygon()

    def _clipped(self) -> np.ndarray:
        """The ring (k, 2) around the part of the domain in the rect that rays from the middle see;
        may be empty. If the domain is convex, as of world maps and disks, that is all of it."""
        low, high = self._corners[[0, 2]]
        grid = np.meshgrid(*np.linspace(low, high, CLIP_STEPS + 1).T)
        nodes = np.column_stack([axis.ravel() for axis in grid])
        nodes = nodes[self._plane.inside(nodes)]
        if not len(nodes):
            return nodes
        middle = nodes[np.argmin(np.abs(nodes - nodes.mean(axis=0)).sum(axis=1))]
        share = np.linspace(0, 1, 2 * CLIP_STEPS, endpoint=False)[:, None]
        edges = np.roll(self._corners, -1, axis=0) - self._corners
        ends = (self._corners[:, None] + share * edges[:, None]).reshape(-1, 2)
        reach = self._plane.inside(ends).astype(np.float64)
        for step in 0.5 ** np.arange(1, 40):
            further = np.minimum(reach + step, 1.0)
            seen = self._plane.inside(middle + further[:, None] * (ends - middle))
            reach[seen] = further[seen]
        ring = middle + reach[:, None] * (ends - middle)
        return ring[np.hypot(*(ring - np.roll(ring, 1, axis=0)).T) > 0]

    def _traced(self, ring: np.ndarray) -> shapely.Geometry:
        start = self._start(ring)
        vertices, _ = densified(start, np.zeros(len(start), np.intp), self._plane.lonlat)
        if len(vertices) < 3:
            return shapely.MultiPolygon()
        points, lon, lat = vertices[:, :2], vertices[:, 2], vertices[:, 3]
        for pole_lat, at in self._poles:
            lat[self._near(points, at, 4)] = pole_lat
        turns, lon = unwrapped(lon)
        inside = [p for p, at in self._poles if shapely.contains_xy(shapely.Polygon(ring), *at)]
        if turns == 0:
            shape = polygons([(lon, lat)])[0]
            # With both poles inside, the ring goes around the part that is outside.
            return shapely.box(-180, -90, 180, 90).difference(shape) if len(inside) == 2 else shape
        end = lon[0] + 360 * turns
        pole_lat = inside[0] if inside else float(np.copysign(90, lat.mean()))
        lat = np.append(lat, [lat[0], pole_lat, pole_lat])
        return polygons([(np.append(lon, [end, end, lon[0]]), lat)])[0]

    def _near(self, points: np.ndarray, pole: np.ndarray, factor: float = 1) -> np.ndarray:
        return np.hypot(*(points - pole).T) < factor * POLE_TOLERANCE * self._side_px

    def _start(self, ring: np.ndarray) -> np.ndarray:
        """The first vertices: the ring's corners, quarters of long edges, and more near poles.

        An edge is divided where it is nearest to a pole, so that no longitude turns by 180 degrees
        between two vertices. A pole on the ring becomes three vertices: with the longitudes of its
        neighbors and, between them, of the rect's inside.
        """
        quarters = (
            [0.0, 0.25, 0.5, 0.75] if len(ring) == 4 and self._plane.long(self._corners) else [0.0]
        )
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
        """The points with three vertices near the pole instead of those that are on it."""
        near = self._near(points, pole)
        if near.all():  # the domain is a speck in the rect
            return points
        far = np.roll(points, -int(np.argmax(near & ~np.roll(near, 1))), axis=0)[near.sum() :]
        ways = np.stack([far[-1], self._centre, far[0]]) - pole
        ways *= 2 * POLE_TOLERANCE * self._side_px / np.hypot(*ways.T)[:, None]
        return np.concatenate([pole + ways, far])

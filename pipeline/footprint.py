"""Outlines of pixel rectangles on Earth. Knows grids and CRS; no scene, file, class or mask.

The door to shapely, and with `area` one of the two to pyproj. An outline is traced in longitude
and latitude, where the ring of a polar tile does not close and that of a tile at the dateline
jumps: longitudes are followed on, poles are closed along their parallel of 90 degrees, and what
leaves -180..180 is cut and moved back (RFC 7946, section 3.1.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyproj
import shapely

from pipeline.ground import Ground, ground
from pipeline.rings import densified, followed, polygons, quantised, short, with_area
from pipeline.scene import Affine6, Rect

SMALL_M = 100e3  # edges shorter than this start undivided: they are bent most halfway
POLE_TOLERANCE = 1e-5
"""A pole this near to an edge, in sides of the rect, lies on it."""
CLIP_STEPS = 32  # the part of a rect inside the domain is looked for at 33 x 33 places


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


def footprints(crs: str, transform: Affine6, rects: Sequence[Rect]) -> list[Footprint | None]:
    """The outlines of rects (pixels of the grid of `transform`); None if wholly off the domain.

    Edges leave the true ones by less than 1e-4 of the rect's side; a part outside the domain is
    cut off. ValueError where the CRS has no place on Earth.
    """
    if not rects:
        return []
    corners = np.array(
        [
            (
                (rect.col_off, rect.row_off),
                (rect.col_off, rect.row_end),
                (rect.col_end, rect.row_end),
                (rect.col_end, rect.row_off),
            )
            for rect in rects
        ],
        dtype=np.float64,
    )
    shapes_of = _geographic if ground(crs).transformer is None else _projected
    shapes = shapely.orient_polygons(shapes_of(crs, transform, corners), exterior_cw=False)
    return [
        None if empty else Footprint(wkb, tuple(bbox))
        for empty, wkb, bbox in zip(
            shapely.is_empty(shapes),
            shapely.to_wkb(shapes),
            shapely.bounds(shapes).tolist(),
            strict=True,
        )
    ]


def footprint(crs: str, transform: Affine6, rect: Rect) -> Footprint | None:
    """The outline of one rect."""
    return footprints(crs, transform, [rect])[0]


def _geographic(crs: str, transform: Affine6, corners: np.ndarray) -> np.ndarray:
    """Edges of such a grid are straight in longitude and latitude: its corners say it all."""
    base, transformer, _ = _earth(crs)
    to_deg = np.degrees(base.angle_rad)
    raw = np.column_stack(_apply(transform, corners.reshape(-1, 2))) * to_deg
    parts = [_between_poles(ring) for ring in raw.reshape(corners.shape)]
    ring = np.concatenate(parts)
    lon, lat = transformer.transform(*(ring / to_deg).T)
    # The transformer may wrap; the grid's own longitudes go on beyond 180.
    lon = quantised(ring[:, 0] + short(lon - ring[:, 0]))
    sizes = [len(part) for part in parts]
    shapes = np.full(len(corners), shapely.Polygon())
    found = np.flatnonzero(sizes)
    rings = list(zip(*(np.split(axis, np.cumsum(sizes)[:-1]) for axis in (lon, lat)), strict=True))
    shapes[found] = polygons([rings[index] for index in found])
    return shapes


def _between_poles(ring: np.ndarray) -> np.ndarray:
    """What of a ring lies there; may be empty."""
    if ring[:, 1].min() >= -90 and ring[:, 1].max() <= 90:
        return ring
    left, right = ring[:, 0].min(), ring[:, 0].max()
    part = with_area(shapely.Polygon(ring).intersection(shapely.box(left, -90, right, 90)))
    return shapely.get_coordinates(part)[:-1]


def _projected(crs: str, transform: Affine6, corners: np.ndarray) -> np.ndarray:
    """Outlines that are short, far from the poles and within the domain are traced together."""
    base, transformer, _ = _earth(crs)
    inside = base.inside(*_apply(transform, corners.reshape(-1, 2)))
    side_px = np.ptp(corners, axis=1).max(axis=1)
    plain = inside.reshape(-1, 4).all(axis=1) & ~_long(crs, transform, side_px)
    for _, at in _poles(crs, transform):
        plain &= ~_bent_by(at, corners.mean(axis=1), side_px)
    numbers = np.flatnonzero(plain)
    lonlat = partial(_lonlat, transformer, transform)
    vertices, ring = densified(corners[plain].reshape(-1, 2), np.repeat(numbers, 4), lonlat)
    rings = {}
    for number, own in zip(
        numbers, np.split(vertices, np.searchsorted(ring, numbers[1:])), strict=False
    ):
        turns, lon = followed(own[:, 2]) if len(own) > 3 else (None, own)
        if turns == 0:
            rings[number] = lon, own[:, 3]
    shapes = np.empty(len(corners), object)
    shapes[list(rings)] = polygons(list(rings.values()))
    for number in {*range(len(corners))} - {*rings}:
        shapes[number] = _Outline(crs, transform, corners[number]).shape()
    return shapes


def _long(crs: str, transform: Affine6, side_px: np.ndarray) -> np.ndarray:
    a, _, _, d, _, _ = transform
    return side_px * np.hypot(a, d) * ground(crs).unit_m > SMALL_M


def _poles(crs: str, transform: Affine6) -> list[tuple[float, np.ndarray]]:
    """Latitudes and pixels of the poles that are points of its plane."""
    a, b, c, d, e, f = transform
    det = a * e - b * d
    return [
        (lat, np.array([e * (x - c) - b * (y - f), a * (y - f) - d * (x - c)]) / det)
        for lat, x, y in _earth(crs)[2]
    ]


def _bent_by(pole: np.ndarray, centre: np.ndarray, side_px: np.ndarray) -> np.ndarray:
    """Poles farther off bend no outline."""
    return np.abs(pole - centre).max(axis=-1) < 3 * side_px


def _lonlat(transformer: pyproj.Transformer, transform: Affine6, points: np.ndarray) -> np.ndarray:
    return np.stack(transformer.transform(*_apply(transform, points)))


class _Outline:
    """Traces the rect of a grid that is not geographic."""

    def __init__(self, crs: str, transform: Affine6, corners: np.ndarray) -> None:
        self._ground, transformer, _ = _earth(crs)
        self._transform, self._corners = transform, corners
        self._centre = corners.mean(axis=0)
        self._side_px = np.ptp(corners, axis=0).max()
        self._long = bool(_long(crs, transform, self._side_px))
        self._poles = [
            (lat, at)
            for lat, at in _poles(crs, transform)
            if _bent_by(at, self._centre, self._side_px)
        ]
        self._lonlat = partial(_lonlat, transformer, transform)

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
        start = self._start(ring)
        vertices, _ = densified(start, np.zeros(len(start), np.intp), self._lonlat)
        points, lon, lat = vertices[:, :2], vertices[:, 2], vertices[:, 3]
        for pole_lat, at in self._poles:
            lat[self._near(points, at, 4)] = pole_lat
        turns, lon = followed(lon)
        held = [p for p, at in self._poles if shapely.contains_xy(shapely.Polygon(ring), *at)]
        if turns == 0:
            shape = polygons([(lon, lat)])[0]
            # With both poles inside, the ring goes round what is left out.
            return shapely.box(-180, -90, 180, 90).difference(shape) if len(held) == 2 else shape
        end = lon[0] + 360 * turns
        pole_lat = held[0] if held else float(np.copysign(90, lat.mean()))
        lat = np.append(lat, [lat[0], pole_lat, pole_lat])
        return polygons([(np.append(lon, [end, end, lon[0]]), lat)])[0]

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


def _apply(transform: Affine6, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (a, b, c, d, e, f), (cols, rows) = transform, points.T
    return a * cols + b * rows + c, d * cols + e * rows + f

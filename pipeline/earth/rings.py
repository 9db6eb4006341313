"""Rings on Earth, in degrees: follow the true edges, go on beyond the dateline, become polygons.

The door to shapely, with `footprint`. Knows neither grids nor CRS: it is told how points become
longitudes and latitudes. Many rings are traced at once, for a call of a library costs as much as a
hundred points; each comes out as it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import shapely

TOLERANCE = 5e-5
"""How far an edge may leave the true one halfway between two vertices, in sides of the ring."""
MAX_ROUNDS = 20
SNAP_DEG = 1e-9
LON_STEPS = 2.0**40
"""Longitudes are multiples of 2**-40 degrees (0.1 micrometres), so that +-360 is exact."""


def densified(
    points: np.ndarray, ring: np.ndarray, lonlat: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The vertices of rings that follow the true ones: (n, 4), place, longitude, latitude; and of
    each vertex the ring.

    points: places (k, 2); ring: of each, the number of its ring, rising; lonlat: places to (2, k)
    degrees. Segments are halved until their middle lies near the straight line, as on the ground.
    """
    vertices = np.column_stack([points, *lonlat(points)])
    finite = np.isfinite(vertices).all(axis=1)
    vertices, ring = vertices[finite], ring[finite]
    tolerance = TOLERANCE * np.degrees(_extents(vertices, ring))
    active = np.arange(len(ring))
    for _ in range(MAX_ROUNDS):
        here, there = vertices[active], vertices[_following(ring)[active]]
        middle = (here[:, :2] + there[:, :2]) / 2
        lon, lat = lonlat(middle)
        lon[np.isinf(lon)] = lat[np.isinf(lat)] = np.nan  # never bent
        east, north = wrapped_180(there[:, 2] - here[:, 2]), there[:, 3] - here[:, 3]
        shrink = np.cos(np.radians(lat))
        cross = np.abs(east * (lat - here[:, 3]) - north * wrapped_180(lon - here[:, 2])) * shrink
        bent = cross > tolerance[ring[active]] * np.hypot(east * shrink, north)
        if not bent.any():
            break
        places = active[bent] + 1
        new = np.column_stack([middle, lon, lat])[bent]
        vertices = np.insert(vertices, places, new, axis=0)
        ring = np.insert(ring, places, ring[active[bent]])
        places += np.arange(len(places))
        active = np.union1d(places, places - 1)
    return vertices, ring


def _extents(vertices: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Of each ring its extent along the longest axis of space, in radii."""
    lon, lat = np.radians(vertices[:, 2:].T)
    space = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    found, starts = np.unique(ring, return_index=True)
    extents = np.zeros(found.max(initial=-1) + 1)
    for axis in space:
        span = np.maximum.reduceat(axis, starts) - np.minimum.reduceat(axis, starts)
        extents[found] = np.maximum(extents[found], span)
    return extents


def _following(ring: np.ndarray) -> np.ndarray:
    """The index of the vertex that follows each one in its ring."""
    following = np.arange(1, len(ring) + 1)
    last = np.diff(ring, append=-1) != 0
    following[last] = np.flatnonzero(np.diff(ring, prepend=-1))
    return following


def unwrapped(lon: np.ndarray) -> tuple[int, np.ndarray]:
    """How often a ring goes round the Earth, and its longitudes followed on from the first."""
    steps = wrapped_180(np.diff(lon, append=lon[0]))
    return round(steps.sum() / 360), rounded_lon(lon[0] + np.cumsum(steps) - steps)


def wrapped_180(step_deg: np.ndarray) -> np.ndarray:
    """A difference of longitudes by the shorter way round, in [-180, 180)."""
    return np.mod(step_deg + 180, 360) - 180


def rounded_lon(lon: np.ndarray) -> np.ndarray:
    edges = np.round(lon / 180) * 180
    fine = np.round(lon * LON_STEPS) / LON_STEPS
    return np.where(np.abs(lon - edges) < SNAP_DEG, edges, fine) + 0.0  # no -0.0


def polygons(rings: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Of each ring, continuous longitudes and latitudes, its polygon, cut at the dateline."""
    if not rings:
        return np.empty(0, object)
    # The turns of the globe, from -180 to 180 degrees, that a ring begins and ends in.
    first = [int((lon.min() + 180) // 360) for lon, _ in rings]
    last = [-int((180 - lon.max()) // 360) for lon, _ in rings]
    lon_lat = [[lon - 360 * turn, lat] for (lon, lat), turn in zip(rings, first, strict=True)]
    indices = np.repeat(np.arange(len(rings)), [len(lon) for lon, _ in rings])
    shapes = shapely.polygons(shapely.linearrings(np.hstack(lon_lat).T, indices=indices))
    for k in np.flatnonzero(~shapely.is_valid(shapes)):
        shapes[k] = polygonal_part(shapely.make_valid(shapes[k]))
    for k in np.flatnonzero(np.less(first, last)):
        shapes[k] = _cut(shapes[k], last[k] - first[k] + 1)
    return shapes


def _cut(shape: shapely.Geometry, turns: int) -> shapely.Geometry:
    pieces = []
    for turn in range(turns):
        piece = shape.intersection(shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        pieces.append(shapely.transform(piece, lambda at, by=360 * turn: at - [by, 0]))
    return polygonal_part(shapely.union_all(pieces).simplify(0))


def polygonal_part(shape: shapely.Geometry) -> shapely.Geometry:
    """Only what has an area: lines, points and slivers left over by clipping are dropped."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    area = shapely.area(parts)
    parts = parts[area > 1e-12 * area.sum()]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))

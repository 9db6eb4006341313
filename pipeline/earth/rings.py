"""Rings on Earth, in degrees: vertices along the true edges, unwrapped longitudes, polygons.

Knows neither grids nor CRS: callers pass a function from points to longitudes and latitudes. Many
rings are traced at once, because a call of a library costs as much as a hundred points; the result
for each ring is the same as alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import shapely

TOLERANCE = 5e-5
"""The largest deviation of an edge from the true one halfway between two vertices, in sides of the
ring."""
MAX_ROUNDS = 20
"""The largest number of times that an edge is halved."""
MAX_VERTICES = 10_000
"""From this number of vertices on, the edges of a ring are not halved: coordinates beyond the
domain of a CRS may be chaos. World maps take up to 5,000."""
SNAP_DEG = 1e-9
"""Longitudes this near to a multiple of 180 degrees are set to it."""
MAX_TURNS = 16
"""A shape that spans more turns of the globe than any map does is replaced by the band between its
latitudes, rather than cut at each of them."""
MAX_TANGLED = 300
"""The largest number of vertices of a ring whose crossings with itself are resolved, which takes up
to 0.2 s; of a longer one the box is taken."""
LON_STEPS = 2.0**40
"""Longitudes are multiples of 2**-40 degrees (0.1 micrometers), so that +-360 is exact."""


def densified(
    points: np.ndarray, ring: np.ndarray, lonlat: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Rings with enough vertices to follow the true edges. Returns the vertices (n, 4): x, y,
    longitude, latitude; and the number of each vertex's ring (n,).

    points: the corners (k, 2); ring: the number of each corner's ring, ascending; lonlat: from
    points to degrees (2, k). Edges are halved until their middle, as on the ground, is near the
    straight line.
    """
    vertices = np.column_stack([points, *lonlat(points)])
    finite = np.isfinite(vertices).all(axis=1)
    vertices, ring = vertices[finite], ring[finite]
    tolerance = TOLERANCE * np.degrees(_extents(vertices, ring))
    active = np.arange(len(ring))
    for _ in range(MAX_ROUNDS):
        start, end = vertices[active], vertices[_following(ring)[active]]
        middle = (start[:, :2] + end[:, :2]) / 2
        lon, lat = lonlat(middle)
        lon[np.isinf(lon)] = lat[np.isinf(lat)] = np.nan  # never bent
        east, north = wrapped_180(end[:, 2] - start[:, 2]), end[:, 3] - start[:, 3]
        shrink = np.cos(np.radians(lat))
        cross = np.abs(east * (lat - start[:, 3]) - north * wrapped_180(lon - start[:, 2])) * shrink
        bent = cross > tolerance[ring[active]] * np.hypot(east * shrink, north)
        bent &= np.bincount(ring)[ring[active]] < MAX_VERTICES
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
    """The extent of each ring along its longest axis in space (ECEF), in Earth radii."""
    lon, lat = np.radians(vertices[:, 2:].T)
    space = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    numbers, starts = np.unique(ring, return_index=True)
    extents = np.zeros(numbers.max(initial=-1) + 1)
    for axis in space:
        span = np.maximum.reduceat(axis, starts) - np.minimum.reduceat(axis, starts)
        extents[numbers] = np.maximum(extents[numbers], span)
    return extents


def _following(ring: np.ndarray) -> np.ndarray:
    """The index of the vertex that follows each one in its ring."""
    following = np.arange(1, len(ring) + 1)
    last = np.diff(ring, append=-1) != 0
    following[last] = np.flatnonzero(np.diff(ring, prepend=-1))
    return following


def unwrapped(lon: np.ndarray) -> tuple[int, np.ndarray]:
    """How many times a ring goes around the Earth, eastward positive, and its longitudes continued
    from the first without jumps."""
    steps = wrapped_180(np.diff(lon, append=lon[0]))
    return round(steps.sum() / 360), rounded_lon(lon[0] + np.cumsum(steps) - steps)


def wrapped_180(step_deg: np.ndarray) -> np.ndarray:
    """A difference of longitudes, the shorter way around: in [-180, 180)."""
    return np.mod(step_deg + 180, 360) - 180


def rounded_lon(lon: np.ndarray) -> np.ndarray:
    """Longitudes as multiples of 1 / LON_STEPS degrees, or of 180 within SNAP_DEG."""
    edges = np.round(lon / 180) * 180
    fine = np.round(lon * LON_STEPS) / LON_STEPS
    return np.where(np.abs(lon - edges) < SNAP_DEG, edges, fine) + 0.0  # no -0.0


def polygons(rings: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The polygon of each ring of continuous longitudes and latitudes, cut at the dateline."""
    if not rings:
        return np.empty(0, object)
    # The turns of the globe, each from -180 to 180 degrees, that a ring starts and ends in.
    first = [int((lon.min() + 180) // 360) for lon, _ in rings]
    last = [-int((180 - lon.max()) // 360) for lon, _ in rings]
    lon_lat = [[lon - 360 * turn, lat] for (lon, lat), turn in zip(rings, first, strict=True)]
    indices = np.repeat(np.arange(len(rings)), [len(lon) for lon, _ in rings])
    shapes = shapely.polygons(shapely.linearrings(np.hstack(lon_lat).T, indices=indices))
    for k in np.flatnonzero(~shapely.is_valid(shapes)):
        shapes[k] = polygonal_part(_untangled(shapes[k]))
    for k in np.flatnonzero(np.less(first, last)):
        shapes[k] = _cut(shapes[k], last[k] - first[k] + 1)
    return shapes


def _untangled(shape: shapely.Geometry) -> shapely.Geometry:
    """A valid shape for a ring that crosses itself, as one far beyond the domain of its CRS may."""
    if shapely.get_num_coordinates(shape) > MAX_TANGLED:
        return shapely.box(*shape.bounds)
    return shapely.make_valid(shape, method="structure", keep_collapsed=False)


def _cut(shape: shapely.Geometry, turns: int) -> shapely.Geometry:
    """A shape that spans several turns, moved into the first one part by part."""
    if turns > MAX_TURNS:
        _, south, _, north = shape.bounds
        return shapely.box(-180, south, 180, north)
    pieces = []
    for turn in range(turns):
        piece = shape.intersection(shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        pieces.append(shapely.transform(piece, lambda at, by=360 * turn: at - [by, 0]))
    return polygonal_part(shapely.union_all(pieces).simplify(0))


def polygonal_part(shape: shapely.Geometry) -> shapely.Geometry:
    """The polygons of a shape, without the lines, points and slivers that clipping leaves."""
    parts = shapely.get_parts(shapely.get_parts(shape))
    area = shapely.area(parts)
    parts = parts[area > 1e-12 * area.sum()]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))

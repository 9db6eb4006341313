"""The overlap of grids on Earth: which of many cover the same ground, and how much of their area is
counted again.

An estimate, in seconds for 100,000 grids: outlines have a few vertices for each edge, and grids
whose middles are on different sides of the equator are not compared. Knows grids; no CRS, scene,
file or class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import shapely

from pipeline.earth.equal_area import Grid, lonlat, plane

MIN_SHARE = 0.1
"""The share of the smaller one from which two grids overlap. Neighbors of a regular tiling share
less: the tiles of Sentinel-2 9 % (9.8 of 109.8 km), orthophotos nothing or a frame of some
pixels."""
ALIGNED = 0.01
"""How far a side of a grid may lean, in sides of another one, if both have the same directions."""
EDGE_POINTS = 4
"""Vertices for each edge."""
SAME = 1e-9
"""Outlines whose corners agree to this, on a globe of radius 1 (6 mm), are one outline: a time
series has thousands of the same."""
POINTS = 4096
"""Points at which grids are counted: the share of the area errs by less than 2 %."""
CHUNK, CHUNK_PAIRS = 256, 100_000
"""Outlines or points that are compared at once, and pairs: each takes half a kilobyte."""
MAX_GRIDS = 100_000
"""Grids that are compared, the first ones: each takes two kilobytes."""
MAX_PAIRS, MAX_INTERSECTED = 1_000_000, 50_000
"""Pairs that are looked at, and those of other directions, which take longer. More are only met
where nearly all grids overlap."""


@dataclass(frozen=True)
class Overlap:
    """The overlap of some grids."""

    count: int
    """The number of grids that overlap another one by MIN_SHARE or more."""
    at_least: bool
    """Whether there may be more of them: not all pairs were looked at."""
    share: float
    """The share of the area of all grids that lies in a grid counted before."""
    area: float
    """The area of all grids, on a globe of radius 1."""
    first: tuple[int, int] | None
    """The indices of two grids that overlap; None: no two do."""


NO_OVERLAP = Overlap(count=0, at_least=False, share=0.0, area=0.0, first=None)


class _Pairs(NamedTuple):
    """Shapes that overlap, pair by pair."""

    one: np.ndarray
    other: np.ndarray
    complete: bool
    """Whether all pairs were looked at."""


def overlap(grids: Sequence[Grid]) -> Overlap:
    """The overlap of the grids. Those without a place on Earth overlap none."""
    whole, grids = len(grids) <= MAX_GRIDS, grids[:MAX_GRIDS]
    across, down = _ring()
    lon, lat = lonlat(grids, np.tile(across, (len(grids), 1)), np.tile(down, (len(grids), 1)))
    numbers = np.flatnonzero(np.isfinite(lon + lat).all(axis=1))
    if not len(numbers):
        return NO_OVERLAP
    south = lat[numbers].mean(axis=1, keepdims=True) < 0
    rings = plane(lon[numbers], lat[numbers], south)
    _, members, shape_of, counts = np.unique(
        np.round(rings[:, ::EDGE_POINTS] / SAME).reshape(len(rings), -1),
        axis=0,
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    shape_of = shape_of.ravel()
    shapes = shapely.make_valid(shapely.polygons(rings[members]))
    tree = shapely.STRtree(shapes)
    pairs = _pairs(tree, rings[members], shapes)
    met = counts > 1
    met[pairs.one] = met[pairs.other] = True
    areas = shapely.area(shapes)
    if not met.any():
        return replace(NO_OVERLAP, area=float(areas @ counts))
    at = _samples(len(numbers))
    u, v = np.random.default_rng(0).random((2, len(at), 1))
    points = plane(*lonlat([grids[i] for i in numbers[at]], u, v), south[at])[:, 0]
    return Overlap(
        count=int(counts[met].sum()),
        at_least=not (pairs.complete and whole),
        share=_share_again(tree, counts, points, areas[shape_of[at]]),
        area=float(areas @ counts),
        first=_first(numbers, shape_of, pairs),
    )


def _ring() -> tuple[np.ndarray, np.ndarray]:
    """The vertices of an outline, in sides of its grid: to the right and down."""
    share = np.arange(EDGE_POINTS) / EDGE_POINTS
    zero, one = np.zeros(EDGE_POINTS), np.ones(EDGE_POINTS)
    return (
        np.concatenate([share, one, 1 - share, zero]),
        np.concatenate([zero, share, one, 1 - share]),
    )


def _pairs(tree: shapely.STRtree, rings: np.ndarray, shapes: np.ndarray) -> _Pairs:
    corners, straight = rings[:, ::EDGE_POINTS], _straight(rings)
    areas, pairs = shapely.area(shapes), []
    looked_at = intersected = end = 0
    chunk = _next_chunk(len(shapes))
    while end < len(shapes) and looked_at <= MAX_PAIRS and intersected <= MAX_INTERSECTED:
        start, end = end, end + chunk
        one, other = tree.query(shapes[start:end])
        chunk = _next_chunk(len(shapes), chunk, len(one))
        one, other = one[one + start < other] + start, other[one + start < other]
        shared, aligned = _shared_if_aligned(corners[one], corners[other])
        shared *= areas[other]
        least = MIN_SHARE * np.minimum(areas[one], areas[other])
        unclear = np.flatnonzero(
            ~(straight[one] & straight[other]) | (~aligned & ~(shared < least))
        )
        shared[unclear] = shapely.area(
            shapely.intersection(shapes[one[unclear]], shapes[other[unclear]])
        )
        overlapping = (shared >= least) & (least > 0)
        pairs.append((one[overlapping], other[overlapping]))
        looked_at, intersected = looked_at + len(one), intersected + len(unclear)
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return _Pairs(one, other, end >= len(shapes))


def _next_chunk(shapes: int, chunk: int = 0, hits: int = 0) -> int:
    """As many shapes or points as may be compared at once, after so many that had so many hits; at
    first as if each might hit all."""
    most = CHUNK_PAIRS * chunk // (hits + 1) if chunk else CHUNK_PAIRS // shapes
    return min(CHUNK, max(1, most))


def _straight(rings: np.ndarray) -> np.ndarray:
    """Whether the vertices of outlines (n, k, 2) are near the straight lines between the corners,
    measured in sides: those of wide grids are not, nor are those around a pole."""
    corners = rings[:, ::EDGE_POINTS]
    share = np.tile(np.arange(EDGE_POINTS) / EDGE_POINTS, corners.shape[1])[:, None]
    start, end = (np.repeat(c, EDGE_POINTS, axis=1) for c in (corners, np.roll(corners, -1, 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        bow = _in_sides(rings - start * (1 - share) - end * share, corners)
    return np.abs(bow).max(axis=(1, 2)) < ALIGNED  # NaN: it has no area


def _in_sides(vectors: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Vectors (n, k, 2) in the first sides to the right and down of quadrilaterals (n, 4, 2)."""
    across, down = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
    x, y = np.moveaxis(vectors, -1, 0)
    unit = (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0])[:, None]
    u = (x * down[:, 1:] - y * down[:, :1]) / unit
    v = (y * across[:, :1] - x * across[:, 1:]) / unit
    return np.stack([u, v], axis=-1)


def _shared_if_aligned(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of each of the `other` quadrilaterals (n, 4, 2) that lies in that of `one`, and
    whether it is exact because their sides have the same directions; else it is an upper bound, or
    NaN. It tells millions of neighbors in tilings apart, and nothing of outlines that are not
    `_straight`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = np.moveaxis(_in_sides(one - other[:, :1], other), -1, 0)
        shared = np.ones(len(one))
        for axis in (u, v):
            inside = np.minimum(axis.max(axis=1), 1) - np.maximum(axis.min(axis=1), 0)
            shared *= np.maximum(inside, 0)
        return shared, _leaning(u, v) < ALIGNED


def _leaning(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far the sides of quadrilaterals lean from the axes u and v (n, 4), whichever of them runs
    along which."""

    def change(axis: np.ndarray, neighbor: Sequence[int]) -> np.ndarray:
        return np.abs(axis - axis[:, neighbor]).max(axis=1)

    beside, below = (1, 0, 3, 2), (3, 2, 1, 0)
    upright = np.maximum(change(u, below), change(v, beside))
    turned = np.maximum(change(u, beside), change(v, below))
    return np.minimum(upright, turned)


def _samples(count: int) -> np.ndarray:
    """The numbers of about POINTS grids, each as often as any other, in random order."""
    chosen = np.unique(np.linspace(0, count - 1, POINTS, dtype=np.intp))
    return np.random.default_rng(0).permutation(np.repeat(chosen, POINTS // len(chosen)))


def _share_again(
    tree: shapely.STRtree, counts: np.ndarray, points: np.ndarray, weights: np.ndarray
) -> float:
    """The share of the area that is counted again: at each point, that of the grids beyond the
    first. counts: the number of grids with each shape."""
    places = shapely.points(points)
    there: list[np.ndarray] = []
    hits, end, chunk = 0, 0, _next_chunk(len(counts))
    while end < len(places) and hits <= MAX_PAIRS:
        start, end = end, end + chunk
        part = places[start:end]
        point, shape = tree.query(part, predicate="intersects")
        there.append(np.bincount(point, counts[shape], len(part)))
        chunk, hits = _next_chunk(len(counts), chunk, len(point)), hits + len(point)
    grids = np.concatenate(there)
    weights = np.where(grids > 0, weights[: len(grids)], 0)  # 0: at the rim of a rough outline
    if not weights.any():
        return 0.0
    return float(np.average(1 - 1 / np.maximum(grids, 1), weights=weights))


def _first(numbers: np.ndarray, shape_of: np.ndarray, pairs: _Pairs) -> tuple[int, int]:
    """The indices of the first two grids that overlap. numbers and shape_of: the index and the
    shape of each grid that has one."""
    order = np.argsort(shape_of, kind="stable")
    shape, member = shape_of[order], numbers[order]
    again = np.flatnonzero(shape[1:] == shape[:-1])
    twins = np.stack([member[again], member[again + 1]])
    others = member[np.searchsorted(shape, np.stack([pairs.one, pairs.other]))]
    both = np.sort(np.hstack([twins, others]), axis=0)
    one, other = both[:, np.lexsort(both[::-1])[0]]
    return int(one), int(other)

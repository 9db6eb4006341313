"""Outlines of pixel rectangles on Earth. Knows grids and CRS; no scene, file, class or mask.

An outline is traced in longitude and latitude, where the ring of a polar tile does not close and
the ring of a tile at the dateline jumps. So longitudes are unwrapped, poles are closed along their
parallel of 90 degrees, and parts outside -180..180 are cut off and moved back (RFC 7946, section
3.1.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from pipeline.earth.outline import Outline, Plane
from pipeline.earth.rings import (
    densified,
    polygonal_part,
    polygons,
    rounded_lon,
    unwrapped,
    wrapped_180,
)
from pipeline.scene import Affine6, Rect

MAX_LON = 1e12
"""Longitudes beyond this, in degrees, are no place."""


@dataclass(frozen=True)
class Footprint:
    """The outline of a pixel rectangle on Earth, in OGC:CRS84 (longitude, latitude; degrees)."""

    wkb: bytes
    """A valid Polygon or MultiPolygon, exterior rings counterclockwise."""
    bbox: tuple[float, float, float, float]
    """xmin, ymin, xmax, ymax; -180..180 if it crosses the dateline or contains a pole."""


def footprints(crs: str, transform: Affine6, rects: Sequence[Rect]) -> list[Footprint | None]:
    """The outlines of rects of the grid of `transform`; None for a rect wholly outside the domain.

    Edges deviate from the true ones by less than 1e-4 of the rect's side; a part outside the domain
    is cut off. Raises ValueError if the CRS has no place on Earth.
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
    plane = Plane(crs, transform)
    shapes = (_geographic if plane.crs.transformer is None else _projected)(plane, corners)
    shapes = shapely.orient_polygons(shapes, exterior_cw=False)
    return [
        None if empty else Footprint(wkb, tuple(bbox))
        for empty, wkb, bbox in zip(
            shapely.is_empty(shapes),
            shapely.to_wkb(shapes),
            shapely.bounds(shapes).tolist(),
            strict=True,
        )
    ]


def _geographic(plane: Plane, corners: np.ndarray) -> np.ndarray:
    """The outlines on a geographic grid, whose edges are straight in longitude and latitude, so
    that the corners suffice."""
    to_deg = np.degrees(plane.crs.angle_rad)
    raw = np.column_stack(plane.places(corners.reshape(-1, 2))) * to_deg
    parts = [_between_poles(ring) for ring in raw.reshape(corners.shape)]
    ring = np.concatenate(parts)
    lon, lat = plane.crs.to_crs84.transform(*(ring / to_deg).T)
    known = np.isfinite(lon) & np.isfinite(lat)  # a datum shift may end beyond its own area
    lon, lat = np.where(known, lon, ring[:, 0]), np.where(known, lat, ring[:, 1])
    # The transformer may wrap; the grid's own longitudes continue beyond 180.
    lon = rounded_lon(ring[:, 0] + wrapped_180(lon - ring[:, 0]))
    sizes = [len(part) for part in parts]
    shapes = np.full(len(corners), shapely.Polygon())
    nonempty = np.flatnonzero(sizes)
    rings = list(zip(*(np.split(axis, np.cumsum(sizes)[:-1]) for axis in (lon, lat)), strict=True))
    shapes[nonempty] = polygons([rings[index] for index in nonempty])
    return shapes


def _between_poles(ring: np.ndarray) -> np.ndarray:
    """The part of a ring between latitudes -90 and 90; may be empty."""
    if not np.abs(ring[:, 0]).max() <= MAX_LON:
        return ring[:0]
    if ring[:, 1].min() >= -90 and ring[:, 1].max() <= 90:
        return ring
    left, right = ring[:, 0].min(), ring[:, 0].max()
    part = polygonal_part(shapely.Polygon(ring).intersection(shapely.box(left, -90, right, 90)))
    return shapely.get_coordinates(part)[:-1]


def _projected(plane: Plane, corners: np.ndarray) -> np.ndarray:
    """The outlines on a projected grid. Rects that are short, far from the poles and inside the
    domain are traced together, the others one by one."""
    plain = plane.inside(corners.reshape(-1, 2)).reshape(-1, 4).all(axis=1) & ~plane.long(corners)
    for _, at in plane.poles:
        plain &= ~plane.bent_by(at, corners)
    numbers = np.flatnonzero(plain)
    vertices, ring = densified(corners[plain].reshape(-1, 2), np.repeat(numbers, 4), plane.lonlat)
    rings = {}
    for number in numbers:
        part = slice(*np.searchsorted(ring, (number, number + 1)))
        if part.stop - part.start < 3:  # corners in the domain that have no place in OGC:CRS84
            continue
        turns, lon = unwrapped(vertices[part, 2])
        if turns == 0:
            rings[number] = lon, vertices[part, 3]
    shapes = np.empty(len(corners), object)
    shapes[list(rings)] = polygons(list(rings.values()))
    for number in {*range(len(corners))} - {*rings}:
        shapes[number] = Outline(plane, corners[number]).shape()
    return shapes

"""Areas and outlines of grids that no map has: far beyond the domain of their CRS, and as coarse as
is accepted. Nothing is raised, and nothing grows without limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.earth.area import CellAreas
from pipeline.earth.crs import parse_crs
from pipeline.earth.footprint import footprints
from pipeline.earth.pixel_size import larger_than_earth
from pipeline.scene import Affine6, Rect

CODES = "4326 4203 4807 3857 32633 32760 3413 3031 3035 27700 2193 3177 5070 8857 27572 2263 31370"
DEFINITIONS = [
    "+proj=sinu +R=6371007.181",
    "+proj=geos +h=35785831 +lon_0=0 +sweep=y",
    "+proj=ortho +lat_0=40",
    "+proj=laea +lat_0=90",
    "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +o_lon_p=0 +lon_0=18",
    "+proj=igh",
]
CRS = [f"EPSG:{code}" for code in CODES.split()] + DEFINITIONS
TURNS = [(1.0, 0.0), (0.8, 0.6), (0.0, 1.0), (-1.0, 0.0), (1.0, 1e-9)]
SIZES = [(1, 1), (512, 512), (5000, 3), (100_000, 60_000), (7, 9000)]


@st.composite
def grids(draw: st.DrawFn) -> tuple[str, Affine6, int, int]:
    crs = draw(st.sampled_from(CRS))
    worlds = parse_crs(crs).world
    size = worlds[0] * 10 ** draw(st.one_of(st.floats(-9, 0), st.floats(-250, -20)))
    cos, sin = draw(st.sampled_from(TURNS))
    flat = draw(st.sampled_from([1.0, 1.0, 1e-3, 1e3, 1e-9]))
    x, y = (
        draw(st.one_of(st.floats(-world, world), st.floats(-1e3, 1e3), st.floats(-1e300, 1e300)))
        for world in worlds
    )
    transform = (size * cos, size * sin * flat, x, size * sin, -size * cos * flat, y)
    return crs, transform, *draw(st.sampled_from(SIZES))


@settings(max_examples=200, deadline=None)
@given(grid=grids())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # overflows, which the result shows
def test_no_grid_makes_an_outline_or_an_area_raise(grid: tuple[str, Affine6, int, int]) -> None:
    crs, transform, width, height = grid
    a, b, _, d, e, _ = transform
    assume(a * e - b * d != 0 and not larger_than_earth(crs, transform))
    rects = [Rect(0, 0, min(512, width), min(512, height)), Rect(0, 0, width, height)]
    for outline in footprints(crs, transform, rects):
        if outline:
            assert shapely.is_valid(shapely.from_wkb(outline.wkb))
            assert all(map(math.isfinite, outline.bbox))
    areas = CellAreas(crs, transform, width, height)
    assert np.isfinite(areas.of(Rect(0, 0, min(20, width), min(20, height)))).all()
    assert math.isfinite(areas.total_m2())


WIDE = Rect(0, 0, 100_000, 60_000)
FAR: dict[str, tuple[str, Affine6, Rect]] = {
    # PROJ returns chaos far from the meridian: a ring of a million vertices, crossing itself.
    "Transverse Mercator": ("EPSG:3177", (-3.7e7, 0, 7e5, 0, 3.7e7, 2e7), WIDE),
    "tangled": ("EPSG:3177", (1e6, 0, 0, 0, -1e6, 0), Rect(0, 0, 512, 512)),
    "in 600 turns": ("EPSG:4326", (360, 0, -180, 0, -0.01, 10), Rect(0, 0, 60_000, 512)),
    # The shift to WGS 84 has no value there.
    "beyond the datum shift": ("EPSG:4203", (90, 0, 179, 0, -90, 80), Rect(0, 0, 512, 512)),
    "a speck in the rect": (
        "+proj=sinu +R=6371007.181",
        (2.3e7, 0, -1e7, 0, -2.3e7, 0),
        Rect(0, 0, 512, 512),
    ),
    "nowhere": ("EPSG:4326", (1, 0, 9.5e299, 0, -1e-3, 90), Rect(0, 0, 512, 512)),
}


@pytest.mark.parametrize("name", FAR)
def test_the_outline_of_a_grid_far_from_any_map_stays_small(name: str) -> None:
    """Without limits, some had a million vertices, and took minutes."""
    crs, transform, rect = FAR[name]
    (outline,) = footprints(crs, transform, [rect])
    if outline:
        shape = shapely.from_wkb(outline.wkb)
        assert shape.is_valid
        assert shapely.get_num_coordinates(shape) < 30_000
    if name in ("nowhere", "in 600 turns"):
        assert (outline is None) == (name == "nowhere")

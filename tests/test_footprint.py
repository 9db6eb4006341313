"""Outlines have the area of their pixels and contain their points, also in known hard places."""

from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.earth.area import CellAreas
from pipeline.earth.footprint import Footprint, footprints
from pipeline.scene import Affine6, Rect

GEOD = pyproj.Geod(ellps="WGS84")
DATELINE_TIF = Path(__file__).parents[2] / "shared/imagery/cog_dateline.tif"
HALF_M = 20037508.342789244
TILE = Rect(0, 0, 512, 512)
POLAR: Affine6 = (30, 0, 0, 0, -30, 0)


def footprint(crs: str, transform: Affine6, rect: Rect) -> Footprint | None:
    return footprints(crs, transform, [rect])[0]


def checked_geometry(outline: Footprint | None) -> shapely.Geometry:
    """The geometry of a footprint, after checks that every footprint must pass."""
    assert outline is not None
    shape = shapely.from_wkb(outline.wkb)
    coords = shapely.get_coordinates(shape)
    assert shape.geom_type in ("Polygon", "MultiPolygon")
    assert shape.is_valid
    assert np.isfinite(coords).all()
    assert not shapely.get_srid(shape)
    assert outline.bbox == shape.bounds
    assert np.abs(coords).max(axis=0) == pytest.approx([0, 0], abs=180)
    assert np.abs(coords[:, 1]).max() <= 90
    assert np.abs(coords[:, 0]).max() <= 180
    assert all(part.exterior.is_ccw for part in shapely.get_parts(shape))
    return shape


def ground_m2(shape: shapely.Geometry) -> float:
    """The area of a shape whose edges are straight in longitude and latitude."""
    quarters = shapely.box([-180, -90, 0, 90], -90, [-90, 0, 90, 180], 90)
    dense = shapely.segmentize(shape.intersection(quarters), min(1.0, np.sqrt(shape.area) / 50))
    dense = shapely.orient_polygons(dense)
    return sum(abs(GEOD.geometry_area_perimeter(part)[0]) for part in dense if not part.is_empty)


GLOBE = (-180, -90, 180, 90)
EAST: Affine6 = (1, 0, 170, 0, -1, 9)
MERCATOR: Affine6 = (HALF_M / 256, 0, -HALF_M, 0, -HALF_M / 256, HALF_M)
PAST_180: Affine6 = (HALF_M / 180, 0, HALF_M * 17 / 18, 0, -HALF_M / 180, 0)
UTM_POLE: Affine6 = (30, 0, 492000, 0, -30, 10005000)
MOLLWEIDE: Affine6 = (20000, 0, -18.1e6, 0, -20000, 9.1e6)

CASES: dict[str, tuple[str, Affine6, Rect, int, tuple[float, float, float, float]]] = {
    "north up": ("EPSG:4326", (1e-3, 0, 10, 0, -1e-3, 50), TILE, 1, (10, 49.488, 10.512, 50)),
    "world": ("EPSG:4326", (1, 0, -180, 0, -1, 90), Rect(0, 0, 360, 180), 1, GLOBE),
    "0..360": ("EPSG:4326", (1, 0, 0, 0, -1, 90), Rect(0, 0, 360, 180), 1, GLOBE),
    "half a pixel off": ("EPSG:4326", (1, 0, -180.5, 0, -1, 90.5), Rect(0, 0, 361, 181), 1, GLOBE),
    "170..190": ("EPSG:4326", EAST, Rect(0, 0, 20, 9), 2, (-180, 0, 180, 9)),
    "180..190": ("EPSG:4326", EAST, Rect(10, 0, 10, 9), 1, (-180, 0, -170, 9)),
    "170..180": ("EPSG:4326", EAST, Rect(0, 0, 10, 9), 1, (170, 0, 180, 9)),
    "Mercator world": ("EPSG:3857", MERCATOR, TILE, 1, (-180, -85.051129, 180, 85.051129)),
    "Mercator, dateline": ("EPSG:3857", PAST_180, Rect(0, 0, 20, 1), 2, (-180, -0.99995, 180, 0)),
    "pole inside": ("EPSG:3413", POLAR, Rect(-200, -300, 512, 512), 1, (-180, 89.8801, 180, 90)),
    "pole on an edge": ("EPSG:3031", POLAR, Rect(0, -256, 512, 512), 1, (0, -90, 180, -89.842)),
    "pole in a corner": ("EPSG:3031", POLAR, TILE, 1, (90, -90, 180, -89.8)),
    "pole 1 px in": ("EPSG:3031", POLAR, Rect(-1, -256, 512, 512), 1, (-180, -90, 180, -89.842)),
    "pole 1 px out": (
        "EPSG:3031",
        POLAR,
        Rect(1, -256, 512, 512),
        1,
        (0.2238, -89.9997, 179.7762, -89.842),
    ),
    "pole in UTM": ("EPSG:32633", UTM_POLE, TILE, 1, (-180, 89.8966, 180, 90)),
    "world map": ("ESRI:54009", MOLLWEIDE, Rect(0, 0, 1810, 910), 1, GLOBE),
}


@pytest.mark.parametrize("name", CASES)
def test_known_places_have_the_right_parts_bounds_and_area(name: str) -> None:
    crs, transform, rect, parts, bbox = CASES[name]
    shape = checked_geometry(footprint(crs, transform, rect))
    assert shapely.get_num_geometries(shape) == parts
    assert shape.bounds == pytest.approx(bbox, abs=1e-3)
    for edge, expected in zip(shape.bounds, bbox, strict=True):
        assert abs(expected) not in (90, 180) or edge == expected  # exactly, so that neighbors meet
    if bbox != GLOBE:
        side = max(rect.width, rect.height)
        areas = CellAreas(crs, transform, side, side)
        assert ground_m2(shape) == pytest.approx(areas.of(rect).sum(), rel=1e-3)


def test_north_up_geographic_needs_four_corners() -> None:
    shape = checked_geometry(footprint("EPSG:4326", (1e-3, 0, 10, 0, -1e-3, 50), TILE))
    assert shapely.get_num_coordinates(shape) == 5


def test_a_small_tile_needs_fewer_than_20_points() -> None:
    shape = checked_geometry(footprint("EPSG:32633", (10, 0, 4e5, 0, -10, 5.3e6), TILE))
    assert shapely.get_num_coordinates(shape) < 20


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("ESRI:54009", (20000, 0, -18.1e6, 0, -20000, 9.1e6)),
        ("EPSG:32633", (30, 0, 1e9, 0, -30, 1e7)),
        ("EPSG:4326", (1, 0, 0, 0, -1, 200)),
    ],
)
def test_a_rect_outside_the_domain_has_no_footprint(crs: str, transform: Affine6) -> None:
    assert footprint(crs, transform, Rect(0, 0, 80, 80)) is None


def test_a_tile_at_the_edge_of_the_domain_is_clipped_to_it() -> None:
    size_m = 30e3
    grid: Affine6 = (size_m, 0, -17.5e6, 0, -size_m, 8.5e6)
    rect = Rect(0, 0, 256, 256)
    shape = checked_geometry(footprint("EPSG:8857", grid, rect))
    area_m2 = CellAreas("EPSG:8857", grid, 1200, 600).of(rect)
    assert (area_m2 == 0).any()
    assert shape.bounds[0] == pytest.approx(-180, abs=1e-3)
    assert ground_m2(shape) == pytest.approx(area_m2.sum(), rel=2e-3)


def test_a_geostationary_full_disk_is_bounded_by_the_limb() -> None:
    crs = "+proj=geos +h=35785831 +lon_0=0 +sweep=y"
    shape = checked_geometry(
        footprint(crs, (11e3, 0, -5.5e6, 0, -11e3, 5.5e6), Rect(0, 0, 1000, 1000))
    )
    assert shape.bounds == pytest.approx((-81.33, -81.33, 81.33, 81.33), abs=0.2)


@pytest.mark.skipif(not DATELINE_TIF.exists(), reason="needs shared/imagery/cog_dateline.tif")
def test_a_real_scene_across_the_dateline_is_split_there() -> None:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(DATELINE_TIF) as source:
        crs, transform = source.crs.to_string(), tuple(source.transform)[:6]
        rect = Rect(0, 0, source.width, source.height)
    shape = checked_geometry(footprint(crs, transform, rect))
    assert shape.geom_type == "MultiPolygon"
    assert shape.bounds[::2] == (-180, 180)
    assert all(part.bounds[2] - part.bounds[0] < 5 for part in shape.geoms)
    area_m2 = CellAreas(crs, transform, rect.width, rect.height).of(rect).sum()
    assert ground_m2(shape) == pytest.approx(area_m2, rel=3e-4)


def grids() -> st.SearchStrategy[tuple[str, Affine6]]:
    turned = st.sampled_from([(1.0, 0.0), (0.8, 0.6), (0.0, 1.0)])
    return st.one_of(
        st.builds(_grid, st.just("EPSG:32633"), _size(3e3), _at(5e5, 4e5), _at(0, 9.5e6), turned),
        st.builds(_grid, st.just("EPSG:32760"), _size(3e3), _at(5e5, 4e5), _at(1e7, 9e6), turned),
        st.builds(_grid, st.just("EPSG:3857"), _size(2e4), _at(0, 2e7), _at(0, 1e7), turned),
        st.builds(_grid, st.just("EPSG:3413"), _size(4e3), _at(0, 4e6), _at(0, 4e6), turned),
        st.builds(_grid, st.just("EPSG:3031"), _size(4e3), _at(0, 3e5), _at(0, 3e5), turned),
        st.builds(_grid, st.just("EPSG:4326"), _size(0.3, 1e-6), _at(0, 360), _at(0, 88), turned),
        st.builds(_grid, st.just("EPSG:4267"), _size(0.1, 1e-6), _at(0, 200), _at(0, 60), turned),
    )


def _size(high: float, low: float = 0.1) -> st.SearchStrategy[float]:
    return st.floats(np.log(low), np.log(high)).map(np.exp).map(float)


def _at(middle: float, spread: float) -> st.SearchStrategy[float]:
    return st.floats(middle - spread, middle + spread)


def _grid(
    crs: str, size: float, x: float, y: float, turn: tuple[float, float]
) -> tuple[str, Affine6]:
    cos, sin = turn
    return crs, (size * cos, size * sin, x, size * sin, -size * cos, y)


@settings(max_examples=150, deadline=None)
@given(grid=grids(), width=st.integers(1, 512), height=st.integers(1, 512), seed=st.integers(0, 99))
def test_a_footprint_contains_its_pixels_and_has_their_area(
    grid: tuple[str, Affine6], width: int, height: int, seed: int
) -> None:
    crs, (a, b, c, d, e, f) = grid
    rect = Rect(-width // 2, -height // 2, width, height)
    shape = checked_geometry(footprint(*grid, rect))
    rng = np.random.default_rng(seed)
    share = rng.uniform(0.001, 0.999, (2, 200))
    cols, rows = rect.col_off + share[0] * width, rect.row_off + share[1] * height
    x, y = a * cols + b * rows + c, d * cols + e * rows + f
    lon, lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(x, y)
    lon = (np.asarray(lon) + 180) % 360 - 180
    known = np.isfinite(lat) & (np.abs(lat) <= 90)
    long, short = max(width, height), min(width, height)
    if short * 20 >= long:
        assert shapely.intersects_xy(shape, lon[known], lat[known]).all()
        areas = CellAreas(crs, grid[1], width, height).of(rect)
        if areas.sum() > 1e4:  # Geod's polygons err by hundredths of a square metre
            assert ground_m2(shape) == pytest.approx(areas.sum(), rel=5e-3)


@settings(max_examples=60, deadline=None)
@given(
    crs=st.sampled_from(["EPSG:32633", "EPSG:3035"]),
    size=_size(3e3),
    y=_at(5e6, 3e6),
    turn=_at(0, 3),
)
def test_edges_follow_the_projected_edges_of_the_tile(
    crs: str, size: float, y: float, turn: float
) -> None:
    x = 5e5 if crs == "EPSG:32633" else 4.3e6
    _, (a, b, c, d, e, f) = _grid(crs, size, x, y / 2, (np.cos(turn), np.sin(turn)))
    edge = shapely.from_wkb(footprint(crs, (a, b, c, d, e, f), TILE).wkb).exterior
    share = np.linspace(0, 512, 300)
    zero, full = np.zeros(300), np.full(300, 512)
    cols, rows = np.r_[share, share, zero, full], np.r_[zero, full, share, share]
    x_m, y_m = a * cols + b * rows + c, d * cols + e * rows + f
    lon, lat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(x_m, y_m)
    off_deg = shapely.distance(edge, shapely.points(lon, lat))
    assert off_deg.max() * np.cos(np.radians(lat)).min() * 111e3 < 1e-4 * 512 * size


MANY = {
    "plain": ("EPSG:32633", (10.0, 0.0, 3e5, 0.0, -10.0, 6e6)),
    "bent": ("EPSG:3035", (150.0, 0.0, 2e6, 0.0, -150.0, 5e6)),
    "long": ("+proj=sinu +R=6371007.181", (463.3, 0.0, 2e6, 0.0, -463.3, 5e6)),
    "some off the domain": ("EPSG:8857", (3000.0, 0.0, -17.4e6, 0.0, -3000.0, 8.4e6)),
    "the pole among them": ("EPSG:3413", (30.0, 0.0, -2e4, 0.0, -30.0, 2e4)),
    "across the dateline": ("EPSG:32601", (100.0, 0.0, 1e5, 0.0, -100.0, 6e6)),
    "geographic": ("EPSG:4326", (0.05, 0.0, 170.0, 0.0, -0.05, 95.0)),
}


@pytest.mark.parametrize("name", MANY)
def test_footprints_computed_together_equal_those_computed_one_by_one(name: str) -> None:
    crs, transform = MANY[name]
    rects = [Rect(col, row, 512, 300) for row in range(0, 1500, 300) for col in range(0, 2560, 512)]
    alone = [footprint(crs, transform, rect) for rect in rects]
    assert footprints(crs, transform, rects) == alone
    assert footprints(crs, transform, rects[::-1]) == alone[::-1]
    assert any(alone)

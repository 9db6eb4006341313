"""Pixel areas against geodesic polygons by pyproj, closed forms and equal-area projections."""

import math

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.earth.area import CellAreas
from pipeline.grid import cores, mask_tiles
from pipeline.scene import Affine6, Rect

WGS84_KM2 = 510065621.724
GEOD = pyproj.Geod(ellps="WGS84")
MODIS = "+proj=sinu +R=6371007.181"
ZOOM0_M = 156543.03392804097
HALF_M = 20037508.342789244
TURNED: Affine6 = (8.66, 5.0, 2e5, 5.0, -8.66, 6.2e6)

GRIDS = {
    "geographic": ("EPSG:4326", (1e-3, 0, 10, 0, -1e-3, 60), Rect(300, 700, 40, 30), 1e-7),
    "geographic, rotated": (
        "EPSG:4326",
        (9e-4, 3e-4, 10, 4e-4, -1e-3, 60),
        Rect(9, 7, 40, 30),
        1e-6,
    ),
    "UTM": ("EPSG:32633", (10, 0, 2e5, 0, -10, 6.2e6), Rect(500, 900, 70, 90), 1e-6),
    "UTM, turned": ("EPSG:32633", TURNED, Rect(500, 900, 70, 90), 1e-6),
    "Web Mercator at 60 N": ("EPSG:3857", (10, 0, 1e6, 0, -10, 8.4e6), Rect(11, 60, 99, 77), 1e-6),
    "Web Mercator, 78 km": (
        "EPSG:3857",
        (ZOOM0_M / 2, 0, -HALF_M, 0, -ZOOM0_M / 2, HALF_M),
        Rect(200, 100, 3, 5),
        1e-5,
    ),
    "Web Mercator, 156 km": (
        "EPSG:3857",
        (ZOOM0_M, 0, -HALF_M, 0, -ZOOM0_M, HALF_M),
        Rect(250, 0, 3, 5),
        1e-4,
    ),
    "north polar": ("EPSG:3413", (30, 0, -2e6, 0, -30, 1e6), Rect(700, 200, 80, 60), 1e-6),
    "north polar with the pole": (
        "EPSG:3413",
        (30, 0, -900, 0, -30, 1200),
        Rect(0, 0, 64, 80),
        1e-5,
    ),
    "south polar": ("EPSG:3031", (100, 0, -2e6, 0, -100, 1e6), Rect(900, 700, 80, 60), 1e-6),
    "south polar with the pole": (
        "EPSG:3031",
        (100, 0, -3e3, 0, -100, 4e3),
        Rect(0, 0, 64, 70),
        1e-5,
    ),
    "1 km": ("EPSG:3413", (1000, 0, -2e6, 0, -1000, 1e6), Rect(70, 20, 90, 60), 1e-6),
    "sphere with geodetic latitudes": (
        MODIS,
        (463.3, 0, 2e6, 0, -463.3, 5e6),
        Rect(9, 9, 50, 50),
        1e-6,
    ),
    "another datum": ("EPSG:27700", (10, 0, 4e5, 0, -10, 6e5), Rect(50, 90, 70, 90), 1e-4),
    "grads": ("EPSG:27572", (10, 0, 6e5, 0, -10, 2.2e6), Rect(50, 90, 70, 90), 1e-4),
    "feet": ("EPSG:2263", (30, 0, 9e5, 0, -30, 2e5), Rect(50, 90, 70, 90), 1e-5),
    "compound": ("EPSG:32633+5773", (10, 0, 2e5, 0, -10, 6.2e6), Rect(5, 9, 70, 90), 1e-6),
}


def polygon_m2(crs: str, transform: Affine6, rect: Rect, points: int = 400) -> float:
    """The geodesic area of the rect's outline, each edge cut into `points` pieces."""
    share = np.arange(points) / points
    across, down = rect.col_off + share * rect.width, rect.row_off + share * rect.height
    left, right = np.full(points, rect.col_off), np.full(points, rect.col_end)
    top, low = np.full(points, rect.row_off), np.full(points, rect.row_end)
    cols = np.concatenate([across, right, rect.col_end - (across - rect.col_off), left])
    rows = np.concatenate([top, down, low, rect.row_end - (down - rect.row_off)])
    a, b, c, d, e, f = transform
    to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lon, lat = to_lonlat.transform(a * cols + b * rows + c, d * cols + e * rows + f)
    return abs(GEOD.polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize("name", GRIDS)
def test_the_area_of_a_rect_is_that_of_its_geodesic_polygon(name: str) -> None:
    crs, transform, rect, tolerance = GRIDS[name]
    area_m2 = CellAreas(crs, transform, 20000, 20000).of(rect)
    assert area_m2.shape == (rect.height, rect.width)
    assert area_m2.dtype == np.float64
    assert area_m2.sum() == pytest.approx(polygon_m2(crs, transform, rect), rel=tolerance)


@pytest.mark.parametrize("name", ["Web Mercator, 78 km", "Web Mercator, 156 km", "1 km"])
def test_each_large_pixel_has_the_area_of_its_geodesic_polygon(name: str) -> None:
    crs, transform, rect, _ = GRIDS[name]
    area_m2 = CellAreas(crs, transform, 256, 256).of(rect)
    for row, col in [(0, 0), (2, 1), (rect.height - 1, rect.width - 1)]:
        pixel = Rect(rect.col_off + col, rect.row_off + row, 1, 1)
        assert area_m2[row, col] == pytest.approx(polygon_m2(crs, transform, pixel), rel=1e-5)


@pytest.mark.parametrize("step_deg", [0.25, 1, 45])
def test_the_whole_world_has_the_area_of_the_ellipsoid(step_deg: float) -> None:
    width, height = int(360 / step_deg), int(180 / step_deg)
    areas = CellAreas("EPSG:4326", (step_deg, 0, -180, 0, -step_deg, 90), width, height)
    assert areas.of(Rect(0, 0, width, height)).sum() / 1e6 == pytest.approx(WGS84_KM2, rel=1e-9)
    assert areas.total_m2() / 1e6 == pytest.approx(WGS84_KM2, rel=1e-9)


def test_rows_beyond_the_poles_have_no_area() -> None:
    areas = CellAreas("EPSG:4326", (1, 0, -180, 0, -1, 92.5), 360, 185)
    area_m2 = areas.of(Rect(0, 0, 360, 185))
    assert (area_m2[[0, 1, 183, 184]] == 0).all()
    assert (area_m2[2:183] > 0).all()
    assert area_m2.sum() / 1e6 == pytest.approx(WGS84_KM2, rel=1e-9)


@pytest.mark.parametrize("lat", [0.0, 50.0, -89.9])
@pytest.mark.parametrize("step", [1e-6, -1e-6, 1e-4])
def test_tiny_geographic_pixels_do_not_cancel(lat: float, step: float) -> None:
    areas = CellAreas("EPSG:4326", (1e-6, 0, 10, 0, step, lat), 9, 9)
    phi, f = math.radians(lat + 4.5 * step), 1 / 298.257223563
    e2 = f * (2 - f)
    w2 = 1 - e2 * math.sin(phi) ** 2
    element = 6378137.0**2 * (1 - e2) * math.cos(phi) / w2**2  # M * N * cos(phi)
    expected = element * math.radians(1e-6) * math.radians(abs(step))
    assert areas.of(Rect(3, 4, 1, 1))[0, 0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size_m", [0.25, 10, 3000, 12000])
def test_equal_area_projection_gives_equal_areas(size_m: float) -> None:
    areas = CellAreas("EPSG:3035", (size_m, 0, 3.9e6, 0, -size_m, 3.1e6), 600, 600)
    area_m2 = areas.of(Rect(17, 40, 60, 50))
    np.testing.assert_allclose(area_m2, size_m**2, rtol=3e-6 if size_m > 1000 else 1e-6)


def test_pixels_outside_the_domain_have_no_area_and_the_others_all_of_theirs() -> None:
    size_m = 300.0  # the lattice straddles the edge of the world
    areas = CellAreas("EPSG:8857", (size_m, 0, -17.3e6, 0, -size_m, 300e3), 2000, 2000)
    area_m2 = areas.of(Rect(0, 0, 600, 600))
    inside = area_m2 > 0
    assert 0.1 < inside.mean() < 0.9
    assert not inside[:, 0].any()
    assert inside[:, -1].all()
    np.testing.assert_allclose(area_m2[inside], size_m**2, rtol=1e-5)


def test_a_world_map_with_round_edges_has_the_area_of_the_ellipsoid() -> None:
    size_m = 60e3
    areas = CellAreas("EPSG:8857", (size_m, 0, -17.5e6, 0, -size_m, 8.5e6), 584, 284)
    area_m2 = areas.of(Rect(0, 0, 584, 284))
    assert area_m2[0, 0] == 0
    assert area_m2.sum() / 1e6 == pytest.approx(WGS84_KM2, rel=1e-3)  # pixels of 60 km
    assert areas.total_m2() == pytest.approx(area_m2.sum(), rel=2e-2)


@pytest.mark.parametrize("name", ["UTM", "UTM, turned", "north polar with the pole", "1 km"])
def test_the_estimated_total_is_within_1_percent_of_the_sum_of_pixels(name: str) -> None:
    crs, transform, _, _ = GRIDS[name]
    areas = CellAreas(crs, transform, 700, 500)
    assert areas.total_m2() == pytest.approx(areas.of(Rect(0, 0, 700, 500)).sum(), rel=1e-2)


offsets = st.integers(0, 400)
sides = st.integers(1, 200)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        ["geographic", "UTM, turned", "north polar with the pole", "1 km", "edge"]
    ),
    first=st.builds(Rect, offsets, offsets, sides, sides),
    second=st.builds(Rect, offsets, offsets, sides, sides),
)
def test_a_pixel_has_the_same_area_in_every_rect(name: str, first: Rect, second: Rect) -> None:
    crs, transform = "EPSG:8857", (2000.0, 0.0, -17.4e6, 0.0, -2000.0, 300e3)
    if name != "edge":
        crs, transform = GRIDS[name][:2]
    areas = CellAreas(crs, transform, 600, 600)
    whole = areas.of(Rect(0, 0, 600, 600))
    over = areas.over(Rect(0, 0, 600, 600))
    for rect in (first, second):
        part = whole[rect.row_off : rect.row_end, rect.col_off : rect.col_end]
        assert areas.of(rect).tobytes() == part.tobytes()
        assert over(rect).values(rect.width).tobytes() == part.tobytes()


def centres(middle: float, spread: float) -> st.SearchStrategy[float]:
    # Drawn as integers: of floats hypothesis would mostly try round ones.
    return st.integers(-1000, 1000).map(lambda share: middle + spread * share / 1000)


PLACES = st.one_of(  # CRS, its unit in metres, x and y well inside its domain
    st.tuples(st.just("EPSG:32633"), st.just(1.0), centres(5e5, 2e5), centres(4.5e6, 4e6)),
    st.tuples(st.just("EPSG:32760"), st.just(1.0), centres(5e5, 2e5), centres(5.5e6, 4e6)),
    st.tuples(st.just("EPSG:3857"), st.just(1.0), centres(0, 1.9e7), centres(0, 1e7)),
    st.tuples(st.just("EPSG:3035"), st.just(1.0), centres(4.3e6, 1e6), centres(3.2e6, 1e6)),
    st.tuples(st.just("EPSG:3413"), st.just(1.0), centres(0, 2e6), centres(0, 2e6)),
    st.tuples(st.just("EPSG:3031"), st.just(1.0), centres(0, 2e6), centres(0, 2e6)),
    st.tuples(st.just("EPSG:4326"), st.just(111_195.0), centres(0, 170), centres(0, 80)),
)
TURNS = st.sampled_from([0.0, 0.0, 0.0, 0.3, math.pi / 2, 2.5])


@settings(max_examples=100, deadline=None)
@given(
    place=PLACES,
    pixel_m=st.floats(math.log(0.5), math.log(300)).map(math.exp),
    turn=TURNS,
    width=st.integers(1, 1300),
    height=st.integers(1, 1300),
    core=st.integers(1, 3),
)
def test_mask_tiles_add_up_to_the_outline(
    place: tuple[str, float, float, float],
    pixel_m: float,
    turn: float,
    width: int,
    height: int,
    core: int,
) -> None:
    crs, unit_m, x, y = place
    size, cos, sin = pixel_m / unit_m, math.cos(turn), math.sin(turn)
    transform = (size * cos, size * sin, x, size * sin, -size * cos, y)
    areas = CellAreas(crs, transform, width, height)
    tiles_m2 = [
        areas.of(tile)
        for block in cores(width, height, core * 512, core * 512)
        for _, _, tile in mask_tiles(block)
    ]
    assert all(np.isfinite(tile).all() and (tile > 0).all() for tile in tiles_m2)
    outline_m2 = polygon_m2(crs, transform, Rect(0, 0, width, height))
    # Geod's polygons err by hundredths of a square metre.
    assert sum(tile.sum() for tile in tiles_m2) == pytest.approx(outline_m2, rel=2e-6, abs=0.1)


@pytest.mark.parametrize("crs", ["EPSG:999999", "nonsense", "", "EPSG:4978", "EPSG:5773"])
def test_a_crs_without_a_place_on_earth_is_refused_in_one_line(crs: str) -> None:
    with pytest.raises(ValueError, match=r"^crs") as caught:
        CellAreas(crs, (1, 0, 0, 0, -1, 0), 10, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0.0, math.nan])
def test_pixels_without_a_size_are_refused(size: float) -> None:
    with pytest.raises(ValueError, match="transform"):
        CellAreas("EPSG:32633", (size, 0, 0, 0, -size, 0), 10, 10)

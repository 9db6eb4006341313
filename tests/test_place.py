"""The place of an image: other bodies, CRS of every type, none at all, and absurd pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

from pipeline.api import plan, run
from pipeline.doubt import DOUBTS
from pipeline.earth.area import CellAreas
from pipeline.earth.crs import OtherBodyError, parse_crs
from pipeline.earth.footprint import footprints
from pipeline.errors import InputError
from pipeline.scene import Affine6, Rect, Scene
from pipeline.settings import Execution, Settings
from tests.support.outputs import rows
from tests.support.rasters import UTM, noise, scene_of, write_raster

SETTINGS = Settings(window=64, stride=64)
LOCAL = Execution(runner="local")


def write(path: Path, **options: object) -> Scene:
    return scene_of(write_raster(path, noise(3, 30, 40), **options))


def kinds(scene: Scene) -> list[str]:
    return [doubt.kind for doubt in scene.doubts]


OTHER_BODIES = {
    "IAU_2015:49910": "Mars (2015) - Sphere, of radius 3,396.2 km",
    "IAU_2015:30100": "Moon (2015) - Sphere, of radius 1,737.4 km",
    "ESRI:104905": "D_Mars_2000, of radius 3,396.2 km",
    "+proj=stere +lat_0=-90 +R=1737400 +units=m": "an unnamed body, of radius 1,737.4 km",
    "+proj=longlat +a=6051800 +b=6051800": "an unnamed body, of radius 6,051.8 km",
    "+proj=eqc +R=1": "an unnamed body, of radius 0.0 km",
}


@pytest.mark.parametrize("crs", OTHER_BODIES)
def test_another_body_has_no_place_on_earth(tmp_path: Path, crs: str) -> None:
    scene = write(tmp_path / "a.tif", crs=crs, transform=Affine(0.1, 0, 5, 0, -0.1, 9))
    assert scene.crs is None
    assert [*scene.doubts] == [("other_body", OTHER_BODIES[crs])]
    with pytest.raises(OtherBodyError):
        CellAreas(crs, (0.1, 0, 5, 0, -0.1, 9), 10, 10)


@pytest.mark.parametrize("radius_m", [6370997, 6371007.181, 6371229, 6378137, 6356752])
def test_a_sphere_of_the_earths_size_is_the_earth(tmp_path: Path, radius_m: float) -> None:
    crs = f"+proj=sinu +R={radius_m}"
    scene = write(tmp_path / "a.tif", crs=crs, transform=Affine(463, 0, 2e6, 0, -463, 5e6))
    assert scene.crs
    assert not scene.doubts
    assert parse_crs(scene.crs).a_m == 6378137


EVERY_TYPE = {
    "EPSG:4326": None,
    "EPSG:4979": None,
    "EPSG:32633": None,
    "EPSG:32633+5773": None,
    "EPSG:2193": None,
    "EPSG:2053": None,
    "EPSG:27572": None,
    "EPSG:7415": None,
    "+proj=utm +zone=33 +ellps=bessel +towgs84=598,73,418,0,0,0,0": None,
    "+proj=ob_tran +o_proj=longlat +o_lat_p=39.25 +o_lon_p=0 +lon_0=18": None,
    "EPSG:4978": "unusable_crs",
    "EPSG:5773": "unusable_crs",
    'LOCAL_CS["site grid",UNIT["metre",1]]': "unusable_crs",
    'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    'LENGTHUNIT["metre",1]]': "unusable_crs",
    "ESRI:102475": "unusable_crs",  # pyproj knows its name and can convert nothing
}


@pytest.mark.parametrize("crs", EVERY_TYPE)
def test_a_crs_of_any_type_gives_a_place_or_a_doubt(tmp_path: Path, crs: str) -> None:
    grid = Affine(1e-4, 0, 11, 0, -1e-4, 52)
    try:
        scene = write(tmp_path / "a.tif", crs=crs, transform=grid)
    except rasterio.errors.CRSError:
        pytest.skip("GDAL's PROJ does not know it")
    expected = EVERY_TYPE[crs]
    assert kinds(scene) == [expected] * bool(expected)
    assert (scene.crs is None) == bool(expected)
    if scene.crs:
        assert np.isfinite(CellAreas(scene.crs, scene.transform, 40, 30).of(scene.rect)).all()
        assert len(footprints(scene.crs, scene.transform, [scene.rect])) == 1


@pytest.mark.parametrize("px", [1e-19, 1e-300])
def test_a_pixel_that_vanishes_beside_its_coordinates_has_no_area(
    tmp_path: Path, px: float
) -> None:
    scene = write(tmp_path / "a.tif", crs="EPSG:4326", transform=Affine(px, 0, 10, 0, -px, 50))
    assert kinds(scene) == ["no_area", "no_transform"]
    assert scene.crs is None


def test_a_pixel_of_a_hundredth_of_a_millimeter_far_from_its_origin_has_one(tmp_path: Path) -> None:
    scene = write(tmp_path / "a.tif", transform=Affine(1e-5, 2e-6, 5e5, 2e-6, -1e-5, 4e6))
    assert not kinds(scene)


POINTS = [GroundControlPoint(r, c, 10 + c, 50 - r) for r, c in ((0, 0), (0, 40), (30, 0), (30, 40))]
POLYNOMIALS = RPC(
    height_off=0, height_scale=1, lat_off=50, lat_scale=1, line_off=15, line_scale=15, long_off=10,
    long_scale=1, samp_off=20, samp_scale=20, line_num_coeff=[0.0] * 20,
    line_den_coeff=[1.0] + [0.0] * 19, samp_num_coeff=[0.0] * 20,
    samp_den_coeff=[1.0] + [0.0] * 19,
)  # fmt: skip
BARE = {"crs": None, "transform": None}
CONTROLLED = {"crs": "EPSG:4326", "transform": None, "gcps": POINTS}


def test_an_image_without_a_place_says_what_it_lacks(tmp_path: Path) -> None:
    assert kinds(write(tmp_path / "a.tif", **BARE)) == ["unplaced"]
    assert kinds(write(tmp_path / "b.tif", **{**UTM, "crs": None})) == ["no_crs"]
    assert kinds(write(tmp_path / "c.tif", crs="EPSG:32633", transform=None)) == ["no_transform"]
    assert not kinds(write(tmp_path / "d.tif"))
    path = write_raster(tmp_path / "e.tif", noise(3, 30, 40), **BARE)
    (tmp_path / "e.tfw").write_text("1\n0\n0\n-1\n5\n6\n")
    with rasterio.open(path) as src:
        assert not src.crs


def test_control_points_and_their_like_are_named_with_their_cure(tmp_path: Path) -> None:
    points = write(tmp_path / "a.tif", **CONTROLLED)
    assert [*points.doubts] == [("control_points", "4 ground control points")]
    polynomials = write(tmp_path / "b.tif", **BARE, rpcs=POLYNOMIALS)
    assert [*polynomials.doubts] == [("control_points", "rational polynomial coefficients (-rpc)")]
    path = write_raster(tmp_path / "c.tif", noise(3, 30, 40), **BARE)
    with rasterio.open(path, "r+") as file:
        file.update_tags(ns="GEOLOCATION", X_DATASET="lon.tif", Y_DATASET="lat.tif")
    array = scene_of(path)
    assert [*array.doubts] == [("control_points", "a geolocation array (-geoloc)")]
    assert "gdalwarp IN OUT" in DOUBTS["control_points"].remedy
    assert points.crs is polynomials.crs is array.crs is None


HONEST: dict[str, tuple[str, Affine6, int, int]] = {
    "the world in one pixel": ("EPSG:4326", (360, 0, -180, 0, -180, 90), 1, 1),
    "the world in one pixel, turned": ("EPSG:4326", (0, 360, -180, -180, 0, 90), 1, 1),
    "the world in two": ("EPSG:4326", (180, 0, -180, 0, -180, 90), 2, 1),
    "in grads": ("EPSG:4807", (400, 0, -200, 0, -200, 100), 1, 1),
    "Mercator in one": ("EPSG:3857", (40075016.7, 0, -2e7, 0, -40075016.7, 2e7), 1, 1),
    "global, 2.5 degrees": ("EPSG:4326", (2.5, 0, 0, 0, -2.5, 91.25), 144, 73),
    "tiny": ("EPSG:32633", (1e-6, 0, 5e5, 0, -1e-6, 5e6), 40, 30),
}


@pytest.mark.parametrize("name", HONEST)
def test_a_coarse_raster_of_the_world_is_accepted(tmp_path: Path, name: str) -> None:
    crs, transform, width, height = HONEST[name]
    path = write_raster(
        tmp_path / "a.tif", noise(3, height, width), crs=crs, transform=Affine(*transform)
    )
    assert scene_of(path).crs == crs


ABSURD: dict[str, tuple[str, Affine6]] = {
    "a million degrees": ("EPSG:4326", (1e6, 0, 0, 0, -0.01, 10)),
    "meters taken for degrees": ("EPSG:4326", (1000, 0, 11, 0, -1000, 52)),
    "a high pixel": ("EPSG:4326", (0.01, 0, 0, 0, -400, 10)),
    "a turned one": ("EPSG:4326", (0.01, 500, 0, 1, -0.1, 10)),
    "UTM beyond the Earth": ("EPSG:32633", (1e9, 0, 0, 0, -1e9, 0)),
    "a bit flipped": ("EPSG:32633", (10, 0, 5e5, 0, -1.5e154, 5e6)),
    "feet": ("EPSG:2263", (2e8, 0, 9e5, 0, -30, 2e5)),
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_pixel_larger_than_the_earth_is_refused(tmp_path: Path, name: str) -> None:
    crs, transform = ABSURD[name]
    path = write_raster(tmp_path / "a.tif", noise(3, 30, 40), crs=crs, transform=Affine(*transform))
    with pytest.raises(
        InputError, match=r"more than the .* of the Earth.* gdal_translate"
    ) as caught:
        scene_of(path)
    assert caught.value.stage == "describe"


def test_a_band_around_the_earth_many_times_is_the_band_between_its_latitudes() -> None:
    (outline,) = footprints("EPSG:4326", (360, 0, -180, 0, -0.01, 10), [Rect(0, 0, 60_000, 512)])
    assert outline
    shape = shapely.from_wkb(outline.wkb)
    assert shape.equals(shapely.box(-180, 4.88, 180, 10))


def test_nothing_of_this_ends_a_run_and_all_of_it_is_noted(
    tmp_path: Path, small_checkpoint: str
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    places = {
        "earth": UTM,
        "mars": {**UTM, "crs": "IAU_2015:49910"},
        "moon": {**UTM, "crs": "+proj=stere +lat_0=-90 +R=1737400 +units=m"},
        "site": {**UTM, "crs": 'LOCAL_CS["site grid",UNIT["metre",1]]'},
        "bare": BARE,
        "points": CONTROLLED,
        "no_crs": {**UTM, "crs": None},
        "no_transform": {**UTM, "transform": None},
    }
    for name, options in places.items():
        write_raster(folder / f"{name}.tif", noise(3, 30, 40), **options)
    arguments = ([str(folder)], small_checkpoint)
    estimate = plan(*arguments, SETTINGS, LOCAL)
    receipt = run(*arguments, str(out), SETTINGS, LOCAL)
    for notes in (estimate.notes, receipt.notes):
        assert [n for n in notes if "2 inputs are images of another body" in n and "Mars" in n]
        assert [n for n in notes if "points.tif (4 ground control points)" in n and "gdalwarp" in n]
        assert [n for n in notes if "site.tif" in n and "no longitudes and latitudes" in n]
        for name in ("bare", "no_crs", "no_transform"):
            assert [n for n in notes if f"{name}.tif" in n and "-a_" in n]
    scenes = {row["scene_id"]: row for row in rows(out, "scenes").to_pylist()}
    assert {row["status"] for row in scenes.values()} == {"done"}
    for row in rows(out, "statistics").to_pylist():
        assert (row["area_m2"] is None) == (row["scene_id"] != "earth.tif")
    assert [name for name, row in scenes.items() if row["geometry"]] == ["earth.tif"]

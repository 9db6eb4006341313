"""Reading rasters compared with rasterio itself, on real files and on deliberately awkward ones."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from pyproj import CRS as ProjCRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from pipeline.doubt import Doubt
from pipeline.errors import InputError, UsageError
from pipeline.imagery.gdal import gdal_env
from pipeline.imagery.pixels import read_pixels
from pipeline.output.shard import Shard
from pipeline.scene import IDENTITY, Rect
from pipeline.settings import Settings
from pipeline.unit import Pixels
from tests.support.rasters import SCALED, TILES, noise, scene_of, write_raster

IMAGERY = Path(__file__).resolve().parents[1] / "../shared/imagery"
needs_imagery = pytest.mark.skipif(
    not IMAGERY.is_dir(), reason="the folder ../shared/imagery with the awkward files is absent"
)


def opened(path: Path) -> Any:
    """rasterio's own view of the file: the oracle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


# name: bands, dtype, crs ("WKT": no authority code), striped, valid pixels
FACTS: dict[str, tuple[tuple[int, ...], str, str | None, bool, int]] = {
    "RGB.byte.tif": ((1, 2, 3), "uint8", "EPSG:32618", True, 383115),
    "RGB2.byte.tif": ((1, 2, 3), "uint8", "WKT", True, 382776),
    "RGBA.byte.tif": ((1, 2, 3), "uint8", "EPSG:32618", True, 383077),
    "RGBA.uint16.tif": ((3, 2, 1), "uint16", "EPSG:32612", True, 127316),
    "all-nodata.tif": ((3, 2, 1), "uint16", "EPSG:32628", True, 0),
    "alpha.tif": ((1, 2, 3), "uint8", "EPSG:3857", False, 23188),
    "cog_dateline.tif": ((1,), "uint16", "EPSG:32660", False, 2325 * 2355),
    "cog_gcps.tif": ((1,), "uint16", None, False, 1280 * 837),
    "cog_int16.tif": ((1,), "int16", "EPSG:32621", False, 3674467),
    "cog_rgb_mask.tif": ((1, 2, 3), "uint8", "EPSG:26913", True, 86117),
    "cogeo.tif": ((1, 2, 3), "uint8", "EPSG:3857", False, 1024 * 1024),
    "float_nan.tif": ((1,), "float32", None, True, 5),
    "img-8bit.jp2": ((1, 2, 3), "uint8", "EPSG:32609", False, 343 * 343),
    "img-15bit.jp2": ((1,), "uint16", "EPSG:32631", False, 1830 * 1830),
    "img-16bit.jp2": ((1,), "uint16", None, False, 1830 * 1830),
    "mosaic_cog1.tif": ((1, 2, 3), "uint16", "EPSG:32618", False, 415658),
    "pix4d_alpha_nodata.tif": ((1, 2, 3), "uint8", "EPSG:32750", True, 455325),
    "rotated.tif": ((1,), "uint8", None, True, 150),
    "world.rgb.tif": ((1, 2, 3), "uint8", "EPSG:4326", True, 512 * 256),
}


@needs_imagery
@pytest.mark.parametrize("name", FACTS)
def test_a_real_file_reads_as_with_rasterio(name: str) -> None:
    bands, dtype, crs, striped, valid_pixels = FACTS[name]
    scene = scene_of(IMAGERY / name, channels=len(bands))
    assert (scene.bands, scene.dtype, scene.striped) == (bands, dtype, striped)
    with opened(IMAGERY / name) as src:
        expected_CHW = src.read(bands)
        dataset_valid_HW = src.dataset_mask() != 0
        file_crs, transform = src.crs, src.transform
    if crs == "WKT":
        assert scene.crs is not None
        assert scene.crs.startswith("PROJCRS[")
        assert rasterio.CRS.from_user_input(scene.crs) == file_crs
        assert ProjCRS.from_user_input(scene.crs).is_projected
    else:
        assert scene.crs == crs
    assert scene.transform == tuple(transform)[:6]
    pixels = read_pixels(scene, scene.rect)
    assert pixels.rect == scene.rect
    assert pixels.values_CHW.dtype == dtype
    np.testing.assert_array_equal(pixels.values_CHW, expected_CHW)
    assert pixels.valid_HW.dtype == bool
    # In these files the dataset mask depends on the selected bands only.
    np.testing.assert_array_equal(pixels.valid_HW, dataset_valid_HW)
    assert int(pixels.valid_HW.sum()) == valid_pixels


@needs_imagery
@pytest.mark.parametrize(
    "name", ["RGB.byte.tif", "RGB2.byte.tif", "alpha.tif", "cog_rgb_mask.tif", "img-8bit.jp2"]
)
def test_a_window_is_a_slice_of_the_whole(name: str) -> None:
    scene = scene_of(IMAGERY / name)
    whole = read_pixels(scene, scene.rect)
    for rect in (
        Rect(3, 5, 7, 1),
        Rect(101, 67, 203, 129),
        Rect(scene.width - 1, scene.height - 1, 1, 1),
        Rect(0, 99, scene.width, 31),
    ):
        part = read_pixels(scene, rect)
        rows, cols = slice(rect.row_off, rect.row_end), slice(rect.col_off, rect.col_end)
        assert part.rect == rect
        np.testing.assert_array_equal(part.values_CHW, whole.values_CHW[:, rows, cols])
        np.testing.assert_array_equal(part.valid_HW, whole.valid_HW[rows, cols])


@needs_imagery
def test_only_windows_with_corrupt_tiles_fail() -> None:
    scene = scene_of(IMAGERY / "corrupt.tif")
    with pytest.raises(InputError, match=r"corrupt\.tif: window 0,0 1024x1024 cannot be") as caught:
        read_pixels(scene, scene.rect)
    assert caught.value.stage == "read"
    assert caught.value.url == scene.url
    assert "\n" not in caught.value.message
    assert "tile 3" in caught.value.message
    good = scene_of(IMAGERY / "cogeo.tif")
    rect = Rect(0, 0, 512, 512)
    assert np.array_equal(read_pixels(scene, rect).values_CHW, read_pixels(good, rect).values_CHW)


@needs_imagery
def test_dates_are_iso_8601() -> None:
    assert scene_of(IMAGERY / "all-nodata.tif").datetime == "2022-01-17T10:43:43"
    assert scene_of(IMAGERY / "RGB.byte.tif").datetime is None


# ---- bands ---------------------------------------------------------------------------------


def test_a_bgr_file_is_read_as_rgb(tmp_path: Path) -> None:
    values = noise(4, 20, 30)
    blue, green, red = ColorInterp.blue, ColorInterp.green, ColorInterp.red
    path = write_raster(
        tmp_path / "a.tif", values, colours=[blue, green, red, ColorInterp.undefined]
    )
    scene = scene_of(path)
    assert scene.bands == (3, 2, 1)
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, values[[2, 1, 0]])
    # Color interpretation does not matter to a network of four channels.
    assert scene_of(path, channels=4).bands == (1, 2, 3, 4)


def test_requested_bands_may_repeat(tmp_path: Path) -> None:
    values = noise(2, 9, 11)
    scene = scene_of(write_raster(tmp_path / "a.tif", values), Settings(bands=(2, 1, 2)))
    assert scene.bands == (2, 1, 2)
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, values[[1, 0, 1]])


def test_the_fourth_band_is_alpha_only_if_tagged(tmp_path: Path) -> None:
    values = noise(4, 8, 8)
    values[3] = 255
    values[3, :, :5] = 0
    untagged = scene_of(write_raster(tmp_path / "a.tif", values, photometric="rgb", alpha="no"))
    assert read_pixels(untagged, untagged.rect).valid_HW.all()
    tagged = scene_of(write_raster(tmp_path / "b.tif", values, photometric="rgb", alpha="yes"))
    np.testing.assert_array_equal(read_pixels(tagged, tagged.rect).valid_HW, values[3] != 0)


def test_alpha_first_is_not_a_channel(tmp_path: Path) -> None:
    grey, alpha = ColorInterp.gray, ColorInterp.alpha
    path = write_raster(tmp_path / "a.tif", noise(4, 8, 8), colours=[alpha, grey, grey, grey])
    assert scene_of(path).bands == (2, 3, 4)


@pytest.mark.parametrize(
    ("count", "settings", "channels", "message"),
    [
        (1, Settings(), 3, r"has 1 band, but the network has 3 channels: .*--bands 1,1,1$"),
        (2, Settings(), 3, r"has 2 bands, .*--bands 1,2,2$"),
        (3, Settings(bands=(1, 2, 4)), 3, r"3 bands, but --bands asks for band 4: .*--bands 1,2,3"),
        (3, Settings(bands=(1, 2)), 3, r"--bands names 2 bands, but the network has 3 channels"),
    ],
)
def test_bands_that_do_not_fit_are_refused_with_a_remedy(
    tmp_path: Path, count: int, settings: Settings, channels: int, message: str
) -> None:
    path = write_raster(tmp_path / "a.tif", noise(count, 8, 8))
    with pytest.raises(UsageError, match=message):
        scene_of(path, settings, channels)


def test_alpha_does_not_count_as_a_channel(tmp_path: Path) -> None:
    values = noise(4, 8, 8)
    values[3] = 255
    path = write_raster(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")
    with pytest.raises(UsageError, match=r"3 bands and 1 alpha, .*--alpha data.*--bands 1,2,3,3$"):
        scene_of(path, channels=4)
    scene = scene_of(path, Settings(bands=(1, 2, 3, 4)), channels=4)
    assert (scene.bands, scene.doubts) == ((1, 2, 3, 4), (Doubt("alpha_fed", "band 4"),))
    assert scene_of(path).doubts == ()


# ---- types ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_other_types_need_a_scale(tmp_path: Path, dtype: str) -> None:
    values = noise(3, 8, 8, dtype=dtype)
    path = write_raster(tmp_path / "a.tif", values)
    with pytest.raises(UsageError, match=rf"a\.tif: holds {dtype}, not uint8: .*--scale 0\.0001"):
        scene_of(path, Settings())
    scene = scene_of(path)
    assert scene.dtype == dtype
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, values)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 8, 8, dtype="complex64"))
    with pytest.raises(InputError, match=r"complex numbers \(complex64\)") as caught:
        scene_of(path)
    assert caught.value.stage == "describe"
    name = "DERIVED_SUBDATASET:AMPLITUDE:"  # as the message advises
    assert name in caught.value.message
    rasterio.shutil.copy(f"{name}{path}", tmp_path / "b.tif", driver="GTiff")
    scene = scene_of(tmp_path / "b.tif")
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(
            read_pixels(scene, scene.rect).values_CHW, np.abs(src.read()).astype(scene.dtype)
        )


def test_bands_of_different_types_are_refused_unless_others_are_named(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 8, 8))
    vrt = tmp_path / "a.vrt"
    rasterio.shutil.copy(path, vrt, driver="VRT")
    vrt.write_text(vrt.read_text().replace('"Byte" band="2"', '"UInt16" band="2"'))
    with pytest.raises(InputError, match=r"1,2,3 differ in type \(uint16, uint8\); .*--bands"):
        scene_of(vrt)
    assert scene_of(vrt, Settings(bands=(1, 3, 1))).dtype == "uint8"


# ---- valid ---------------------------------------------------------------------------------


def with_nan() -> np.ndarray:
    values = noise(3, 6, 8, dtype="float32")
    values[:, 0] = np.nan
    values[0, 1] = np.nan
    values[:, 2] = -9999
    values[0, 3] = -9999
    return values


def test_nan_is_never_valid(tmp_path: Path) -> None:
    scene = scene_of(write_raster(tmp_path / "a.tif", with_nan()))
    assert read_pixels(scene, scene.rect).valid_HW.all(axis=1).tolist() == [False] + [True] * 5
    scene = scene_of(write_raster(tmp_path / "b.tif", with_nan(), nodata=-9999))
    pixels = read_pixels(scene, scene.rect)
    assert pixels.valid_HW.all(axis=1).tolist() == [False, True, False, True, True, True]
    assert pixels.valid_HW.any(axis=1).tolist() == [False, True, False, True, True, True]
    np.testing.assert_array_equal(pixels.values_CHW, with_nan())


@pytest.mark.parametrize("internal", [True, False])
def test_internal_and_sidecar_masks_are_read(tmp_path: Path, internal: bool) -> None:
    mask = np.full((6, 8), 255, dtype="uint8")
    mask[2:, 3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_raster(tmp_path / "a.tif", noise(3, 6, 8), mask=mask)
    assert (tmp_path / "a.tif.msk").exists() != internal
    scene = scene_of(path)
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, mask != 0)


def test_nan_is_invalid_even_if_the_mask_of_the_file_says_valid(tmp_path: Path) -> None:
    mask = np.full((6, 8), 255, dtype="uint8")
    mask[5] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write_raster(tmp_path / "a.tif", with_nan(), mask=mask)
    scene = scene_of(path)
    valid = read_pixels(scene, scene.rect).valid_HW
    assert valid.all(axis=1).tolist() == [False, True, True, True, True, False]


def test_a_pixel_is_valid_if_any_selected_band_is(tmp_path: Path) -> None:
    values = noise(4, 4, 6)
    values[:3, 0] = 0
    values[:2, 1] = 0
    path = write_raster(tmp_path / "a.tif", values, nodata=0, photometric="minisblack")
    scene = scene_of(path)
    assert read_pixels(scene, scene.rect).valid_HW.all(axis=1).tolist() == [False, True, True, True]
    two_bands = scene_of(path, Settings(bands=(1, 2)), channels=2)
    valid_HW = read_pixels(two_bands, two_bands.rect).valid_HW
    assert valid_HW.all(axis=1).tolist() == [False, False, True, True]
    four_bands = scene_of(path, channels=4)
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(
            read_pixels(four_bands, four_bands.rect).valid_HW, src.dataset_mask() != 0
        )


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("nodata", [5, 7, 200])
def test_nodata_agrees_with_rasterio(tmp_path: Path, dtype: str, nodata: int) -> None:
    values = np.random.default_rng(nodata).integers(5, 9, (3, 40, 50)).astype(dtype)
    path = write_raster(tmp_path / "a.tif", values, nodata=nodata)
    scene = scene_of(path)
    with rasterio.open(path) as src:
        expected = src.dataset_mask() != 0
    assert expected.all() == (nodata == 200)
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, expected)


@pytest.mark.parametrize(
    ("dtype", "nodata", "rows"),
    [
        ("uint8", 9.0, [False, True, True]),
        ("uint8", -9999.0, [True, True, True]),
        ("uint8", 0.5, [True, True, True]),
        ("uint8", float("nan"), [True, True, True]),
        ("float32", 9.0, [False, False, True]),
        ("float32", float("nan"), [True, False, True]),
        ("float32", 0.1, [True, False, False]),
        ("float32", 1e300, [True, False, True]),
    ],
)
def test_nodata_option_overrides_the_file(
    tmp_path: Path, dtype: str, nodata: float, rows: list[bool]
) -> None:
    values = np.full((3, 3, 4), 9, dtype=dtype)
    values[:, 1] = np.nan if dtype == "float32" else 0
    values[:, 2] = np.array(0.1, dtype=dtype)
    values[1:, 2, 0] = 9 if nodata == 9 else values[1, 2, 0]
    path = write_raster(tmp_path / "a.tif", values, nodata=0)
    scene = scene_of(path, Settings(scale=1.0, nodata=nodata))
    assert read_pixels(scene, scene.rect).valid_HW.all(axis=1).tolist() == rows


def test_nodata_option_overrides_alpha(tmp_path: Path) -> None:
    values = noise(4, 4, 4)
    values[3] = 255
    values[3, 0] = 0
    values[:3, 1] = 0
    path = write_raster(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")
    scene = scene_of(path, Settings(nodata=0))
    assert read_pixels(scene, scene.rect).valid_HW.all(axis=1).tolist() == [True, False, True, True]


# ---- place and layout ----------------------------------------------------------------------


def test_crs_is_a_code_only_on_exact_match(tmp_path: Path) -> None:
    def crs_of(crs: str) -> str | None:
        return scene_of(write_raster(tmp_path / "a.tif", noise(3, 8, 8), crs=crs)).crs

    assert crs_of("EPSG:3031") == "EPSG:3031"
    assert crs_of("ESRI:54009") == "ESRI:54009"
    odd = crs_of("+proj=utm +zone=18 +a=6378140 +b=6356750 +units=m")
    assert odd is not None
    assert odd.startswith("PROJCRS[")
    assert ProjCRS.from_user_input(odd).ellipsoid.semi_major_metre == 6378140


def test_a_crs_without_a_transform_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with pytest.warns(NotGeoreferencedWarning):
        write_raster(path, noise(3, 8, 8), transform=None)
    scene = scene_of(path)
    assert (scene.crs, scene.transform) == (None, IDENTITY)


def test_strips_png_and_jpeg_are_striped_and_tiles_are_not(tmp_path: Path) -> None:
    values = noise(3, 300, 300)
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    assert not scene_of(write_raster(tmp_path / "tiles.tif", values, **tiles)).striped
    assert scene_of(write_raster(tmp_path / "strips.tif", values)).striped
    plain = {"crs": None, "transform": None}
    for driver, name in (("PNG", "a.png"), ("JPEG", "a.jpg")):
        with pytest.warns(NotGeoreferencedWarning):
            path = write_raster(tmp_path / name, values, driver=driver, **plain)
        scene = scene_of(path, Settings())
        assert scene.striped
        assert (scene.crs, scene.transform, scene.bands) == (None, IDENTITY, (1, 2, 3))
        if driver == "PNG":
            np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, values)


@pytest.mark.parametrize("name", ["a b.tif", "a#b?c=1.tif", "ü%20!.tif", "c:d.tif"])
def test_any_file_name_can_be_read(tmp_path: Path, name: str) -> None:
    values = noise(3, 8, 8)
    scene = scene_of(write_raster(tmp_path / name, values))
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, values)


def test_the_acquisition_time_takes_precedence_over_the_time_of_writing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 8, 8))
    with rasterio.open(path, "r+") as out:
        out.update_tags(TIFFTAG_DATETIME="0000:00:00 00:00:00")
    assert scene_of(path).datetime is None
    with rasterio.open(path, "r+") as out:
        out.update_tags(TIFFTAG_DATETIME="2024:02:29 01:02:03")
    assert scene_of(path).datetime == "2024-02-29T01:02:03"
    with rasterio.open(path, "r+") as out:
        out.update_tags(ACQUISITIONDATETIME="2023-05-06T07:08:09+00:00")
    assert scene_of(path).datetime == "2023-05-06T07:08:09+00:00"


# ---- the environment -----------------------------------------------------------------------


def test_gdal_env_collects_warnings_inside_and_leaves_them_alone_outside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = logging.getLogger("rasterio._err")
    with gdal_env() as outer, gdal_env() as inner:
        log.warning("within")
    assert (inner, outer) == (["within"], [])
    assert not caplog.records
    log.warning("without")
    assert [record.getMessage() for record in caplog.records] == ["without"]


def test_threads_read_full_resolution_despite_overviews(tmp_path: Path) -> None:
    values = noise(3, 512, 512)
    path = write_raster(tmp_path / "a.tif", values, **TILES)
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4])
    scene = scene_of(path)
    rects = [Rect(x, y, 100, 90) for x in (0, 201) for y in (0, 203)] * 4
    with ThreadPoolExecutor(4) as pool:
        parts: list[Pixels] = list(pool.map(lambda rect: read_pixels(scene, rect), rects))
    for rect, part in zip(rects, parts, strict=True):
        rows, cols = slice(rect.row_off, rect.row_end), slice(rect.col_off, rect.col_end)
        np.testing.assert_array_equal(part.values_CHW, values[:, rows, cols])


def test_a_scene_survives_json(tmp_path: Path) -> None:
    scene = scene_of(write_raster(tmp_path / "a.tif", noise(3, 8, 8)), dataclasses.replace(SCALED))
    record = json.dumps(Shard("0", (scene,), (), ()).to_json())
    assert Shard.from_json(json.loads(record)).scenes == (scene,)

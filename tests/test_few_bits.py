"""Few bits and negatives, compared with Pillow and with plain files of the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.enums import ColorInterp

from pipeline.doubt import Doubt
from pipeline.errors import InputError, UsageError
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Rect
from pipeline.settings import Settings
from tests.support.encoded import assert_reads_alike, noise_to
from tests.support.rasters import SCALED, TILES, noise, scene_of, write_raster

GRAY = Settings(bands=(1, 1, 1))
WIDTH, HEIGHT = 310, 290
PNG: dict[str, Any] = {"driver": "PNG", "crs": None, "transform": None}
JP2: dict[str, Any] = {"driver": "JP2OpenJPEG", "reversible": "yes", "quality": 100}
unplaced = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def stretched(values: np.ndarray, bits: int) -> np.ndarray:
    """The values of so many bits as uint8 from 0 to 255."""
    return np.rint(values.astype(float) * 255 / (2**bits - 1)).astype(np.uint8)


def check(path: Path, expected: np.ndarray, settings: Settings, **facts: object) -> None:
    """Check that the file reads as a plain one of the expected values, with these facts."""
    plain = write_raster(path.with_name("plain.tif"), expected, photometric="minisblack")
    scene = scene_of(path, settings)
    assert {name: getattr(scene, name) for name in facts} == facts
    assert_reads_alike(scene, scene_of(plain, settings))


@unplaced
@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_few_bits_are_stretched_as_pillow_shows_them(
    tmp_path: Path, bits: int, suffix: str
) -> None:
    values = noise_to(2**bits - 1, WIDTH, HEIGHT)
    options = PNG if suffix == "png" else {}
    path = write_raster(tmp_path / f"a.{suffix}", values, nbits=bits, **options)
    scene = scene_of(path, GRAY)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("L"))
    assert set(np.unique(expected)) == {v * 255 // (2**bits - 1) for v in range(2**bits)}
    for plane in read_pixels(scene, scene.rect).values_CHW:
        np.testing.assert_array_equal(plane, expected)
    assert scene.palette == (bits == 1 and suffix == "tif")  # as which GDAL presents it
    assert scene.bits == (None if scene.palette else bits)


@unplaced
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("kind", ["strips", "tiles", "jp2"])
def test_few_bits_fill_the_range_of_8(tmp_path: Path, bits: int, kind: str) -> None:
    if (kind, bits) == ("jp2", 1):
        pytest.skip("OpenJPEG does not write three bands of 1 bit")
    values = noise_to(2**bits - 1, WIDTH, HEIGHT, bands=3)
    options = {"strips": {}, "tiles": {**TILES, "compress": "deflate"}, "jp2": JP2}[kind]
    path = write_raster(tmp_path / "a.img", values, nbits=bits, **options)
    with rasterio.open(path) as src:  # JPEG 2000 may not give back what was written
        values = src.read()
    check(path, stretched(values, bits), Settings(), bits=bits, values_dtype="uint8", doubts=())


def test_8_bits_and_more_are_not_stretched(tmp_path: Path) -> None:
    for bits in (9, 12, 15):
        values = noise_to(255, WIDTH, HEIGHT).astype(np.uint16) * 2
        path = write_raster(tmp_path / f"{bits}.tif", values, nbits=bits)
        with pytest.raises(UsageError, match="holds uint16, not uint8"):
            scene_of(path, GRAY)
        scaled = Settings(bands=(1, 1, 1), scale=0.001)
        check(path, values, scaled, bits=bits, dtype="uint16", values_dtype="uint16")
    path = write_raster(tmp_path / "8.tif", values.astype(np.uint8), nbits=8)
    check(path, values.astype(np.uint8), GRAY, bits=None)
    half = noise(1, HEIGHT, WIDTH, dtype="float32")
    path = write_raster(tmp_path / "half.tif", half, nbits=16)
    check(path, half, Settings(bands=(1, 1, 1), scale=0.001), bits=None)


@unplaced
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_nodata_is_compared_before_stretching(tmp_path: Path, suffix: str) -> None:
    values = noise_to(15, WIDTH, HEIGHT)
    options = PNG if suffix == "png" else {}
    path = write_raster(tmp_path / f"a.{suffix}", values, nbits=4, nodata=3, **options)
    for settings, missing in ((GRAY, 3), (Settings(bands=(1, 1, 1), nodata=15), 15)):
        scene = scene_of(path, settings)
        pixels = read_pixels(scene, scene.rect)
        np.testing.assert_array_equal(pixels.valid_HW, values[0] != missing)
        np.testing.assert_array_equal(pixels.values_CHW[0], values[0] * 17)


def test_an_alpha_of_few_bits_masks_and_is_judged(tmp_path: Path) -> None:
    values = noise_to(15, WIDTH, HEIGHT, bands=4)
    path = write_raster(tmp_path / "data.tif", values, nbits=4)
    assert scene_of(path, Settings()).alpha_is_data
    values[3] = np.where(values[3] > 5, 15, 0)
    path = write_raster(tmp_path / "alpha.tif", values, nbits=4)
    scene = scene_of(path, Settings())
    assert (scene.alpha_is_data, scene.doubts) == (False, ())
    pixels = read_pixels(scene, scene.rect)
    np.testing.assert_array_equal(pixels.valid_HW, values[3] != 0)
    np.testing.assert_array_equal(pixels.values_CHW, values[:3] * 17)


@unplaced
def test_values_of_more_bits_than_the_file_says_are_refused_where_they_are(tmp_path: Path) -> None:
    values = noise_to(15, 600, 300)
    values[0, 5, 550] = 16
    path = write_raster(tmp_path / "a.png", values, **PNG)
    (tmp_path / "a.png.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><Metadata domain="IMAGE_STRUCTURE">'
        '<MDI key="NBITS">4</MDI></Metadata></PAMRasterBand></PAMDataset>'
    )
    scene = scene_of(path, GRAY)
    left = read_pixels(scene, Rect(0, 0, 550, 300))
    np.testing.assert_array_equal(left.values_CHW[1], values[0, :, :550] * 17)
    with pytest.raises(InputError, match=r"a\.png: holds 16, .* have 4 bits; .*NBITS") as caught:
        read_pixels(scene, scene.rect)
    assert caught.value.stage == "read"
    scene = scene_of(path, Settings(bands=(1, 1, 1), nodata=16))
    assert not read_pixels(scene, scene.rect).valid_HW[5, 550]


def test_bands_of_different_bits_are_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "source.tif", noise_to(15, 60, 30, bands=3))
    vrt = tmp_path / "a.vrt"
    rasterio.shutil.copy(tmp_path / "source.tif", vrt, driver="VRT")
    bits = '<Metadata domain="IMAGE_STRUCTURE"><MDI key="NBITS">4</MDI></Metadata><ColorInterp>Red'
    vrt.write_text(vrt.read_text().replace("<ColorInterp>Red", bits))
    with pytest.raises(InputError, match=r"its bands 1,2,3 differ in bits \(4, 8, 8\); .*--bands"):
        scene_of(vrt, Settings())
    assert scene_of(vrt, Settings(bands=(2, 3, 2))).bits is None


# ---- negatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("options", [{}, {**TILES, "compress": "deflate"}], ids=["strips", "tiles"])
def test_a_negative_is_inverted(tmp_path: Path, bits: int, options: dict[str, Any]) -> None:
    values = noise_to(2**bits - 1, WIDTH, HEIGHT)
    nbits = {} if bits == 8 else {"nbits": bits}
    path = write_raster(tmp_path / "a.tif", values, photometric="miniswhite", **nbits, **options)
    doubt = Doubt("negative", "uint8")
    check(path, 255 - stretched(values, bits), GRAY, negative=True, palette=False, doubts=(doubt,))
    if bits in (2, 4, 8):
        scene = scene_of(path, GRAY)
        with Image.open(path) as image:
            shown = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW[0], shown)


@pytest.mark.parametrize(("dtype", "bits"), [("uint16", 16), ("uint16", 12), ("uint32", 32)])
def test_a_negative_of_many_bits_is_inverted_before_it_is_scaled(
    tmp_path: Path, dtype: str, bits: int
) -> None:
    values = noise_to(255, WIDTH, HEIGHT).astype(dtype) * 16
    nbits = {"nbits": bits} if bits == 12 else {}
    path = write_raster(tmp_path / "a.tif", values, photometric="miniswhite", **nbits)
    scaled = Settings(bands=(1, 1, 1), scale=0.0001)
    expected = (2**bits - 1 - values.astype(np.int64)).astype(dtype)
    check(path, expected, scaled, negative=True, bits=12 if bits == 12 else None)


def test_nodata_of_a_negative_is_the_stored_value(tmp_path: Path) -> None:
    values = noise_to(255, WIDTH, HEIGHT)
    path = write_raster(tmp_path / "a.tif", values, photometric="miniswhite", nodata=0)
    for settings, missing in ((GRAY, 0), (Settings(bands=(1, 1, 1), nodata=255), 255)):
        scene = scene_of(path, settings)
        pixels = read_pixels(scene, scene.rect)
        np.testing.assert_array_equal(pixels.valid_HW, values[0] != missing)
        np.testing.assert_array_equal(pixels.values_CHW[0], 255 - values[0])


def test_the_alpha_band_of_a_negative_is_not_inverted(tmp_path: Path) -> None:
    values = noise_to(255, WIDTH, HEIGHT, bands=2)
    values[1] = np.where(values[1] > 80, 255, 0)
    path = write_raster(tmp_path / "a.tif", values, photometric="miniswhite", alpha="yes")
    scene = scene_of(path, Settings(bands=(1, 2)), channels=2)
    pixels = read_pixels(scene, scene.rect)
    np.testing.assert_array_equal(pixels.values_CHW, [255 - values[0], values[1]])
    assert [doubt.kind for doubt in scene.doubts] == ["alpha_fed", "negative"]


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_a_negative_of_a_type_without_white_is_read_as_stored(tmp_path: Path, dtype: str) -> None:
    values = (noise_to(255, WIDTH, HEIGHT).astype(np.int16) - 128).astype(dtype)
    path = write_raster(tmp_path / "a.tif", values, photometric="miniswhite")
    doubt = Doubt("negative_as_stored", dtype)
    settings = Settings(bands=(1, 1, 1), scale=0.01)
    check(path, values, settings, negative=False, doubts=(doubt,))


def test_a_scale_of_the_file_takes_precedence_over_bits_and_negative(tmp_path: Path) -> None:
    values = noise_to(15, WIDTH, HEIGHT)
    path = write_raster(tmp_path / "a.tif", values, nbits=4, photometric="miniswhite")
    with rasterio.open(path, "r+") as out:
        out.scales, out.offsets = (0.05,), (0.1,)
    scene = scene_of(path, Settings(bands=(1, 1, 1), scale="file"))
    assert scene.doubts == (Doubt("negative_as_stored", "its own scale is applied"),)
    expected = (values[0].astype(np.float64) * 0.05 + 0.1).astype(np.float32)
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW[2], expected)


def test_inks_are_not_taken_for_colors(tmp_path: Path) -> None:
    values = noise(4, HEIGHT, WIDTH, dtype="uint16")
    path = write_raster(tmp_path / "a.tif", values, photometric="cmyk")
    with rasterio.open(path) as src:
        assert src.colorinterp[0] == ColorInterp.cyan
    with pytest.raises(InputError, match=r"a\.tif: its bands are inks .*--bands 1,2,3$"):
        scene_of(path)
    assert scene_of(path, Settings(bands=(1, 2, 3), scale=0.01)).bands == (1, 2, 3)
    assert scene_of(path, SCALED, channels=4).bands == (1, 2, 3, 4)

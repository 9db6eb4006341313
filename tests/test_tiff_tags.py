"""TIFFs with odd tags: segmented if the tag concerns no pixel, refused if it does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.errors import RasterioError
from rasterio.transform import Affine

from pipeline.errors import InputError
from pipeline.imagery.dataset import read_dataset
from pipeline.imagery.gdal import gdal_env
from pipeline.imagery.header import describe
from pipeline.imagery.pixels import read_pixels
from pipeline.imagery.source import find_inputs
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.unit import Pixels
from tests.support.rasters import noise, scene_of, write_raster
from tests.support.tiff_directory import (
    ASCII,
    BYTE,
    DOUBLE,
    FLOAT,
    LONG,
    SHORT,
    SIZES,
    UNDEFINED,
    Entry,
    directory_of,
    with_entry,
)

FLAT = {"crs": None, "transform": None}
TILED = {"tiled": True, "blockxsize": 32, "blockysize": 32}


def write(path: Path, **options: Any) -> bytes:
    return write_raster(path, noise(3, 70, 60), **{**FLAT, **options}).read_bytes()


def pixels_of(path: Path) -> Pixels:
    scene = scene_of(path)
    return read_pixels(scene, scene.rect)


def assert_equal(one: Pixels, other: Pixels) -> None:
    assert np.array_equal(one.values_CHW, other.values_CHW)
    assert np.array_equal(one.valid_HW, other.valid_HW)


HARMLESS = {
    "SubfileType": (254, LONG, 2),
    "Threshholding": (263, SHORT, 3),
    "Orientation": (274, SHORT, 2),
    "PageNumber": (297, SHORT, 1),
    "TransferFunction": (301, SHORT, 3),
    "WhitePoint": (318, FLOAT, 1),
    "PrimaryChromaticities": (319, FLOAT, 5),
    "ColorMap": (320, SHORT, 7),
    "HalftoneHints": (321, SHORT, 1),
    "DotRange": (336, SHORT, 1),
    "YCbCrCoefficients": (529, FLOAT, 1),
    "YCbCrSubsampling": (530, SHORT, 1),
    "ReferenceBlackWhite": (532, FLOAT, 1),
    "XResolution as text": (282, ASCII, 5),
    "DateTime as a number": (306, DOUBLE, 1),
    "ICC profile without bytes": (34675, UNDEFINED, 0),
    "a private tag without bytes": (65000, UNDEFINED, 0),
    "DNGVersion": (50706, BYTE, 3),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_tag_that_concerns_no_pixel_may_be_odd(tmp_path: Path, name: str) -> None:
    tag, kind, count = HARMLESS[name]
    path = tmp_path / "a.tif"
    data = write(path, compress="deflate", predictor=2, **TILED)
    expected = pixels_of(path)
    path.write_bytes(with_entry(data, Entry(tag, kind, count, bytes(SIZES[kind] * count))))
    assert_equal(pixels_of(path), expected)


CONCERNING = {
    "StripOffsets": (273, FLOAT, {}),
    "StripByteCounts": (279, DOUBLE, {"compress": "lzw"}),
    "TileOffsets": (324, UNDEFINED, TILED),
    "PhotometricInterpretation": (262, DOUBLE, {}),
    "Predictor": (317, DOUBLE, {"compress": "lzw", "predictor": 2}),
    "GDALNoDataValue": (42113, DOUBLE, {"nodata": 7}),
    "FillOrder": (266, DOUBLE, {}),
    "BitsPerSample": (258, DOUBLE, {}),
    "RowsPerStrip": (278, DOUBLE, {}),
    "ExtraSamples": (338, DOUBLE, {}),
}


@pytest.mark.parametrize("name", CONCERNING)
def test_a_tag_that_pixels_depend_on_must_be_readable(tmp_path: Path, name: str) -> None:
    tag, kind, options = CONCERNING[name]
    path = tmp_path / "a.tif"
    data = write(path, **options)
    path.write_bytes(with_entry(data, Entry(tag, kind, 3, bytes(3 * SIZES[kind]))))
    with pytest.raises(InputError, match="leave it out") as caught:
        pixels_of(path)
    assert name in str(caught.value) or "its index of storage tiles" in str(caught.value)


def odd_entries(entries: list[Entry]) -> Iterator[Entry]:
    """Each entry with other counts and types; without SHORT for LONG, which is another number and
    no error."""
    for tag, kind, count, value in entries:
        size = SIZES[kind]
        yield Entry(tag, kind, count + 1, value + value[:size])
        yield Entry(tag, kind, 3 * count, 3 * value)
        yield Entry(tag, kind, 0, b"")
        if count > 1:
            yield Entry(tag, kind, count - 1, value[:-size])
        for other in SIZES:
            if (kind, other) not in ((LONG, SHORT), (kind, kind)):
                yield Entry(tag, other, count, (value * 8)[: SIZES[other] * count])


FILES: dict[str, dict[str, Any]] = {
    "strips": {"blockysize": 16},
    "tiles": {**TILED, "compress": "deflate", "predictor": 2, "nodata": 3},
    "planes": {"interleave": "band", "compress": "lzw", "blockysize": 8},
    "jpeg": {**TILED, "compress": "jpeg", "photometric": "ycbcr"},
    "placed": {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)},
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_an_odd_tag_is_refused_or_has_the_pixels_of_a_sound_one(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "a.tif"
    data = write(path, **FILES[name])
    expected = pixels_of(path)
    accepted = 0
    for entry in odd_entries(directory_of(data)):
        path.write_bytes(with_entry(data, entry))
        try:
            pixels = pixels_of(path)
        except (InputError, MemoryError):
            continue
        accepted += 1
        assert_equal(pixels, expected)
    assert accepted > 5


def test_a_mask_that_is_taken_for_a_page_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        data = write_raster(path, noise(3, 64, 64), mask=np.eye(64) == 0).read_bytes()
    assert not pixels_of(path).valid_HW.all()
    mask_type = struct.pack("<HHII", 254, LONG, 1, 4)
    assert data.count(mask_type) == 1
    path.write_bytes(data.replace(mask_type, struct.pack("<HHII", 254, LONG, 0, 4)))
    with pytest.raises(InputError, match="SubfileType"):
        pixels_of(path)


def test_the_tiff_that_places_a_jpeg_2000_has_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    options = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"}
    data = write_raster(path, noise(3, 70, 60), **options).read_bytes()
    (tmp_path / "a.jp2.aux.xml").unlink(missing_ok=True)
    expected = pixels_of(path)
    at = data.index(b"II*\0")
    box = data[at:]
    (byte_counts,) = (e for e in directory_of(box) if e.tag == 279)
    entry = struct.pack("<HHI", 279, byte_counts.type, byte_counts.number)
    assert box.count(entry) == 1
    path.write_bytes(data[:at] + box.replace(entry, struct.pack("<HHI", 279, FLOAT, 1)))
    with gdal_env() as warnings, rasterio.open(path) as src:
        assert src.read().any()
        assert any("StripByteCounts" in warning for warning in warnings)
    assert_equal(pixels_of(path), expected)


def test_a_mask_beside_an_image_may_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    options = {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"}
    write_raster(path, noise(3, 70, 60), **options)
    mask = tmp_path / "a.jp2.msk"
    write_raster(mask, (noise(1, 70, 60) > 99).astype("uint8") * 255, **FLAT)
    with rasterio.open(mask, "r+") as out:
        out.update_tags(INTERNAL_MASK_FLAGS_1=2)
    data = mask.read_bytes()
    (file,) = find_inputs([str(path)], DEFAULT_ACCESS)
    scene = describe(file, Settings(), channels=3)
    assert not read_pixels(scene, scene.rect).valid_HW.all()
    mask.write_bytes(with_entry(data, Entry(273, DOUBLE, 3, bytes(24))))
    with pytest.raises(InputError, match="StripOffsets"):
        read_pixels(scene, scene.rect)


def test_a_fax_that_is_cut_is_damage(tmp_path: Path) -> None:
    """libtiff only warns, and leaves the rows white."""
    path = tmp_path / "a.tif"
    values = (noise(1, 80, 90) > 120).astype("uint8")
    data = write_raster(path, values, **FLAT, nbits=1, compress="ccittfax4").read_bytes()
    assert np.array_equal(read_all(path), values)
    (strip,) = (e for e in directory_of(data) if e.tag == 279)
    (size,) = struct.unpack("<I" if strip.type == LONG else "<H", strip.value)
    path.write_bytes(with_entry(data, Entry(279, LONG, 1, struct.pack("<I", size // 2))))
    with pytest.raises(RasterioError, match="Fax4Decode"):
        read_all(path)


def test_packbits_that_decode_to_too_much_are_damage(tmp_path: Path) -> None:
    """libtiff only warns, and pixels have moved."""
    values = np.repeat(noise(1, 40, 12), 5, axis=2)
    path = write_raster(tmp_path / "a.tif", values, **FLAT, compress="packbits", blockysize=40)
    data = path.read_bytes()
    assert np.array_equal(read_all(path), values)
    with rasterio.open(path) as src:
        start = int(src.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    run_of_five = 257 - 5
    assert data[start] == run_of_five
    path.write_bytes(data[:start] + bytes([run_of_five - 1]) + data[start + 1 :])
    with pytest.raises(RasterioError, match=r"PackBitsDecode: ?Discarding 1 bytes"):
        read_all(path)


def read_all(path: Path) -> np.ndarray:
    def read(src: Any, _: list[str]) -> np.ndarray:
        values: np.ndarray = src.read()
        return values

    return read_dataset(str(path), (), DEFAULT_ACCESS, read)


def test_a_count_that_no_file_has_is_damage_and_no_lack_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data = write(path, nodata=7)
    path.write_bytes(with_entry(data, Entry(42113, ASCII, 10**9, b"\0\0\0\1" * 2)))
    with pytest.raises(InputError, match='Unable to read all of "GDALNoDataValue"'):
        pixels_of(path)


def test_a_message_of_gdal_that_is_not_utf_8_is_kept_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """rasterio cannot log it: `Didn't find expected '=' for value of attribute '\\xff'`."""
    path = tmp_path / "a.tif"
    data = write(path)
    text = b"<GDALMetadata \xff>\0"
    path.write_bytes(with_entry(data, Entry(42112, ASCII, len(text), text)))
    warnings: list[str] = []

    def read(src: Any, messages: list[str]) -> None:
        src.tags()
        warnings.extend(messages)

    read_dataset(str(path), (), DEFAULT_ACCESS, read)
    assert any("attribute '\\xff'" in warning for warning in warnings)
    assert capfd.readouterr() == ("", "")

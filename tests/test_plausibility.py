"""Headers that claim more than their file can hold, and intact files that are small for theirs."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile

from pipeline.api import plan
from pipeline.errors import InputError, UsageError
from pipeline.imagery.header import describe
from pipeline.imagery.source import find_inputs
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.archives import write_scene

IMAGE_WIDTH, IMAGE_LENGTH = 256, 257


def describe_file(path: Path) -> Scene:
    (input_file,) = find_inputs([str(path)], DEFAULT_ACCESS)
    assert input_file.size_bytes == path.stat().st_size
    return describe(input_file, Settings(), channels=3)


def write_one_color(path: Path, edge: int, **profile: Any) -> Path:
    shape = {"width": edge, "height": edge, "count": 3, "dtype": "uint8"}
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", **shape) as file:
            file.write(np.full((3, edge, edge), 7, np.uint8))
        with memory.open() as file:
            rasterio.shutil.copy(file, path, **profile)
    return path


@pytest.mark.parametrize(
    ("suffix", "profile"),
    [
        ("tif", {"compress": "deflate", "zlevel": 9, "tiled": True}),
        ("tif", {"compress": "lzw", "blockysize": 2048}),
        ("tif", {"compress": "zstd", "tiled": True, "blockxsize": 2048, "blockysize": 2048}),
        ("tif", {"compress": "lerc", "tiled": True, "blockxsize": 2048, "blockysize": 2048}),
        ("tif", {"compress": "jpeg", "photometric": "ycbcr"}),
        ("png", {"driver": "PNG", "ZLEVEL": 9}),
        ("jpg", {"driver": "JPEG", "QUALITY": 10}),
        ("jp2", {"driver": "JP2OpenJPEG"}),
    ],
)
def test_a_file_of_a_single_color_is_not_taken_for_damaged(
    tmp_path: Path, suffix: str, profile: Any
) -> None:
    path = write_one_color(tmp_path / f"one.{suffix}", 2048, **profile)
    assert describe_file(path).width == 2048


@pytest.mark.parametrize("layout", [{"BIGTIFF": "YES"}, {"interleave": "band"}, {}])
def test_a_sparse_mosaic_is_not_taken_for_damaged(tmp_path: Path, layout: dict[str, str]) -> None:
    path = tmp_path / "sparse.tif"
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": "TRUE"}
    shape = {"width": 50_000, "height": 40_000, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options, **layout):
        pass
    assert path.stat().st_size < 400_000  # for 6 GB of pixels
    assert describe_file(path).height == 40_000


def set_tag(path: Path, tag: int, value: int) -> Path:
    """Set a tag in the first directory of a classic little-endian TIFF."""
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    (entry,) = (
        e
        for e in range(directory + 2, directory + 2 + 12 * count, 12)
        if struct.unpack_from("<H", data, e) == (tag,)
    )
    struct.pack_into("<HII", data, entry + 2, 4, 1, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("tiled", "tag", "value", "message"),
    [
        (True, IMAGE_WIDTH, 2**25, "which its index of storage tiles is not for"),
        (True, IMAGE_WIDTH, 400, "claims 400x96 px, which its index of storage tiles is not for"),
        (True, IMAGE_LENGTH, 2**31 - 1, "cannot even index the 8,388,608 storage tiles of them"),
        (False, IMAGE_LENGTH, 2**31 - 1, "cannot even index the 134,217,728 storage tiles of them"),
        (False, IMAGE_WIDTH, 2**25, "first storage tile has [0-9,]+ bytes for 1,610,612,736"),
    ],
)
def test_a_small_tiff_that_claims_gigapixels_is_refused(
    tmp_path: Path, tiled: bool, tag: int, value: int, message: str
) -> None:
    path = set_tag(write_scene(tmp_path / "a.tif", 160, 96, tiled=tiled), tag, value)
    with pytest.raises(InputError, match=message) as caught:
        describe_file(path)
    assert str(caught.value).startswith(f"{path}: claims ")
    assert "its header is damaged: replace it or leave it out" in str(caught.value)


def test_a_small_png_that_claims_gigapixels_is_refused(tmp_path: Path) -> None:
    path = write_one_color(tmp_path / "a.png", 96, driver="PNG")
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, 20, 999_999)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"claims 96x999999 px in 3 bands.*cannot hold them"):
        describe_file(path)


def test_a_small_jpeg_that_claims_gigapixels_is_refused(tmp_path: Path) -> None:
    path = write_one_color(tmp_path / "a.jpg", 96, driver="JPEG")
    data = bytearray(path.read_bytes())
    offset = data.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", data, offset, 65500, 65500)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"claims 65500x65500 px in 3 bands.*cannot hold them"):
        describe_file(path)


VRT = """
<VRTDataset rasterXSize="2000000000" rasterYSize="1000000000">
  <VRTRasterBand dataType="Byte" band="1"/>
  <VRTRasterBand dataType="Byte" band="2"/>
  <VRTRasterBand dataType="Byte" band="3"/>
</VRTDataset>"""


def test_a_plan_of_more_than_a_million_units_is_refused_before_it_is_built(
    small_checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "big.vrt"
    path.write_text(VRT)
    assert describe_file(path).width == 2_000_000_000  # its pixels may be elsewhere
    with pytest.raises(UsageError, match=r"units, more than 1,000,000; the largest scene is .*vrt"):
        plan([str(path)], small_checkpoint)

"""Headers that claim more than their file can hold; sound files that are small for their pixels."""

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


def described(path: Path) -> Scene:
    (found,) = find_inputs([str(path)], DEFAULT_ACCESS)
    assert found.size_bytes == path.stat().st_size
    return describe(found, Settings(), channels=3)


def one_colour(path: Path, edge: int, **profile: Any) -> Path:
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
def test_a_single_colour_is_no_damage(tmp_path: Path, suffix: str, profile: Any) -> None:
    path = one_colour(tmp_path / f"one.{suffix}", 2048, **profile)
    assert described(path).width == 2048


@pytest.mark.parametrize("layout", [{"BIGTIFF": "YES"}, {"interleave": "band"}, {}])
def test_a_sparse_mosaic_is_no_damage(tmp_path: Path, layout: dict[str, str]) -> None:
    path = tmp_path / "sparse.tif"
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": "TRUE"}
    shape = {"width": 50_000, "height": 40_000, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options, **layout):
        pass
    assert path.stat().st_size < 400_000  # for 6 GB of pixels
    assert described(path).height == 40_000


def with_tag(path: Path, tag: int, value: int) -> Path:
    """The classic little-endian TIFF with another value in a tag of its first directory."""
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    (entry,) = (
        e
        for e in range(at + 2, at + 2 + 12 * count, 12)
        if struct.unpack_from("<H", data, e) == (tag,)
    )
    struct.pack_into("<HII", data, entry + 2, 4, 1, value)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("tiled", "tag", "value", "says"),
    [
        (True, IMAGE_WIDTH, 2**25, "which its index of storage tiles is not for"),
        (True, IMAGE_WIDTH, 400, "claims 400x96 px, which its index of storage tiles is not for"),
        (True, IMAGE_LENGTH, 2**31 - 1, "cannot even index the 8,388,608 storage tiles of them"),
        (False, IMAGE_LENGTH, 2**31 - 1, "cannot even index the 134,217,728 storage tiles of them"),
        (False, IMAGE_WIDTH, 2**25, "first storage tile has [0-9,]+ bytes for 1,610,612,736"),
    ],
)
def test_a_tiff_of_kilobytes_does_not_hold_gigapixels(
    tmp_path: Path, tiled: bool, tag: int, value: int, says: str
) -> None:
    path = with_tag(write_scene(tmp_path / "a.tif", 160, 96, tiled=tiled), tag, value)
    with pytest.raises(InputError, match=says) as caught:
        described(path)
    assert str(caught.value).startswith(f"{path}: claims ")
    assert "its header is damaged: replace it or leave it out" in str(caught.value)


def test_nor_does_a_png(tmp_path: Path) -> None:
    path = one_colour(tmp_path / "a.png", 96, driver="PNG")
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, 20, 999_999)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"claims 96x999999 px in 3 bands.*cannot hold them"):
        described(path)


def test_nor_does_a_jpeg(tmp_path: Path) -> None:
    path = one_colour(tmp_path / "a.jpg", 96, driver="JPEG")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0") + 5
    struct.pack_into(">HH", data, at, 65500, 65500)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"claims 65500x65500 px in 3 bands.*cannot hold them"):
        described(path)


VRT = """
<VRTDataset rasterXSize="2000000000" rasterYSize="1000000000">
  <VRTRasterBand dataType="Byte" band="1"/>
  <VRTRasterBand dataType="Byte" band="2"/>
  <VRTRasterBand dataType="Byte" band="3"/>
</VRTDataset>"""


def test_a_plan_that_nobody_could_carry_out_is_refused_not_built(
    small_checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "big.vrt"
    path.write_text(VRT)
    assert described(path).width == 2_000_000_000  # its pixels may be elsewhere
    with pytest.raises(UsageError, match=r"units, more than 1,000,000; the largest scene is .*vrt"):
        plan([str(path)], small_checkpoint)

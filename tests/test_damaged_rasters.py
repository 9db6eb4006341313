"""Damaged and unusual files: the error of each, and its stage."""

from __future__ import annotations

import math
import os
import pickle
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

from pipeline.errors import InputError
from pipeline.failure import Failure
from pipeline.imagery.header import describe_or_failure
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.pixels import read_pixels
from pipeline.processes.limits import process_limits
from pipeline.scene import IDENTITY, Rect
from pipeline.settings import Settings
from pipeline.storage.access import Access
from tests.support.rasters import TILES, noise, scene_of, write_raster


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", r"the file is empty \(0 bytes\)"),
        (b"this is no picture\n", "not recognized as being in a supported file format"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not recognized"),
        (b"II*\0\xff\xff\xff\x7f", "cannot be opened"),
        (b"\x89PNG\r\n\x1a\n", "cannot be opened"),
    ],
)
def test_a_file_that_is_no_image_is_refused_with_its_path(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.tif"
    (tmp_path / "another.tif").touch()  # a folder that is empty now counts as unmounted
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        scene_of(path)
    assert caught.value.stage == "describe"
    assert caught.value.url == str(path)
    assert caught.value.message.count(str(path)) == 1
    assert "\n" not in caught.value.message
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.message, again.stage) == (caught.value.message, "describe")


def test_an_image_of_width_zero_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 8, 9))
    content = path.read_bytes()
    width_tag = struct.pack("<HHII", 256, 3, 1, 9)
    assert content.count(width_tag) == 1
    path.write_bytes(content.replace(width_tag, struct.pack("<HHII", 256, 3, 1, 0)))
    with pytest.raises(InputError, match="image") as caught:
        scene_of(path)
    assert caught.value.stage == "describe"


def test_a_container_of_subdatasets_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    for table in ("one", "two"):
        write_raster(
            path, noise(3, 8, 8), driver="GPKG", RASTER_TABLE=table, APPEND_SUBDATASET=True
        )
    with pytest.raises(InputError, match=r"2 subdatasets and no bands .*gdal_translate") as caught:
        scene_of(path)
    assert caught.value.stage == "describe"


@pytest.mark.parametrize(
    "transform", [Affine(1, 2, 0, 2, 4, 0), Affine(10, 0, 5e5, 0, -10, math.nan)]
)
def test_a_transform_without_areas_costs_the_place_and_no_pixel(
    tmp_path: Path, transform: Affine
) -> None:
    values = noise(3, 8, 8)
    scene = scene_of(write_raster(tmp_path / "a.tif", values, transform=transform))
    assert (scene.crs, scene.transform) == (None, IDENTITY)
    assert [doubt.kind for doubt in scene.doubts] == ["no_area", "no_transform"]
    assert (read_pixels(scene, scene.rect).values_CHW == values).all()


DAMAGED: dict[str, dict[str, Any]] = {
    "strips.tif": {},
    "deflate.tif": {"compress": "deflate", **TILES},
    "lzw.tif": {"compress": "lzw"},
    "jpeg.tif": {"compress": "jpeg", "photometric": "ycbcr", **TILES},
    "a.jpg": {"driver": "JPEG"},
    "progressive.jpg": {"driver": "JPEG", "PROGRESSIVE": True},
    "a.png": {"driver": "PNG"},
    "a.jp2": {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"},
}


def write_truncated(path: Path, **options: Any) -> tuple[Path, Path]:
    """Write a good file, and a copy without its last quarter; returns both paths."""
    plain = {"crs": None, "transform": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        write_raster(path, noise(3, 400, 500), **plain, **options)
    content = path.read_bytes()
    cut = path.with_stem("cut")
    cut.write_bytes(content[: len(content) * 3 // 4])
    return path, cut


@pytest.mark.parametrize("name", DAMAGED)
def test_a_truncated_file_fails_when_its_pixels_are_read(tmp_path: Path, name: str) -> None:
    good, cut = write_truncated(tmp_path / name, **DAMAGED[name])
    scene = scene_of(good)
    read_pixels(scene, scene.rect)
    scene = scene_of(cut)  # the header is whole
    for rect in (scene.rect, Rect(0, 380, 500, 20)):
        with pytest.raises(InputError, match="cannot be read") as caught:
            read_pixels(scene, rect)
        assert caught.value.stage == "read"
        assert str(rect) in caught.value.message
        assert str(cut) in caught.value.message


RANDOM_BYTES = np.random.default_rng(1).integers(0, 255, 3000, dtype="uint8").tobytes()


@pytest.mark.parametrize(
    "patch", [b"\xff\xd9", b"\xff" * 300, RANDOM_BYTES], ids=["early end", "ff", "random"]
)
def test_a_damaged_jpeg_tile_inside_a_tiff_is_refused(tmp_path: Path, patch: bytes) -> None:
    """libtiff only warns and hands out grey: rasterio raises nothing (seen with GDAL 3.10)."""
    options = {"compress": "jpeg", "photometric": "ycbcr", **TILES}
    options.update(blockxsize=512, blockysize=512)
    path = write_raster(tmp_path / "a.tif", noise(3, 512, 512), **options)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(patch)] = patch
    path.write_bytes(bytes(content))
    with rasterio.open(path) as src:
        src.read()
    scene = scene_of(path)
    with pytest.raises(InputError, match="Corrupt JPEG data"):
        read_pixels(scene, scene.rect)


def test_a_lack_of_memory_is_not_taken_for_damage(tmp_path: Path) -> None:
    """The one tile is 400 MB decoded, and 400 bytes in the file."""
    options = {"tiled": True, "blockxsize": 20_000, "blockysize": 20_000, "SPARSE_OK": True}
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        width=20_000,
        height=20_000,
        count=3,
        dtype="uint8",
        compress="deflate",
        **options,
    ):
        pass
    program = (
        "import sys, tests.test_damaged_rasters as test; test.assert_read_needs_memory(sys.argv[1])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.tif")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, env=environment)


def assert_read_needs_memory(path: str) -> None:
    """Called in a separate process: memory that other tests have freed could be used again."""
    scene = scene_of(Path(path))
    with pytest.raises(MemoryError), process_limits(60, memory_bytes=150_000_000):
        read_pixels(scene, Rect(0, 0, 20, 20))
    read_pixels(scene, Rect(0, 0, 20, 20))


@pytest.mark.parametrize("kind", ["loop", "folder", "below a file", "long"])
def test_a_path_that_can_never_be_read_is_a_failure_and_not_retried(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.tif"
    match kind:
        case "loop":
            path.symlink_to(path.name)
        case "folder":
            path.mkdir()
        case "below a file":
            (tmp_path / "file").touch()
            path = tmp_path / "file" / "a.tif"
        case "long":
            path = tmp_path / f"{'a' * 300}.tif"
    errors = {"folder": "IsADirectoryError", "below a file": "NotADirectoryError"}
    failure = describe_or_failure(
        InputFile("a.tif", str(path), "v1"), Settings(), 3, Access(patience_s=0)
    )
    assert isinstance(failure, Failure)
    assert failure.error == errors.get(kind, "OSError")
    assert failure.message.count(str(path)) == 1


def test_a_file_that_changed_or_vanished_after_planning_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 20, 30))
    scene = scene_of(path)
    for values, content in (
        (noise(3, 21, 30), "30x21 uint8"),
        (noise(3, 20, 30, dtype="uint16"), "30x20 uint16"),
        (noise(2, 20, 30), "30x20 2 bands"),
    ):
        write_raster(path, values)
        with pytest.raises(InputError, match=rf"changed since .* is {content};") as caught:
            read_pixels(scene, Rect(0, 0, 5, 5))
        assert caught.value.stage == "read"
    path.unlink()
    with pytest.raises(InputError, match="no such file") as caught:
        read_pixels(scene, Rect(0, 0, 5, 5))
    assert caught.value.stage == "read"


@pytest.mark.parametrize("rect", [Rect(-1, 0, 5, 5), Rect(0, 0, 0, 5), Rect(26, 0, 5, 5)])
def test_a_rect_outside_is_a_mistake_of_the_caller(tmp_path: Path, rect: Rect) -> None:
    scene = scene_of(write_raster(tmp_path / "a.tif", noise(3, 20, 30)))
    with pytest.raises(ValueError, match="is not inside"):
        read_pixels(scene, rect)

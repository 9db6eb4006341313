"""Masks and other files beside an image: what a damaged one costs, on disk and remote alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.api import run
from pipeline.errors import InputError
from pipeline.imagery.header import describe
from pipeline.imagery.identity import version_of
from pipeline.imagery.pixels import read_pixels
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.rasters import doubts_beside_place, noise, write_raster
from tests.support.sidecars import (
    described,
    found,
    mask_file,
    write_image,
)
from tests.support.web_server import Server

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"cannot be opened: "),
        (b"this is no mask", r"cannot be opened: not recognized"),
        (mask_file(50, 40)[:60], r"cannot be opened: "),
        (mask_file(25, 20), r"has 25x20 px, and the image 50x40 px"),
    ],
    ids=["empty", "text", "cut", "small"],
)
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_an_image_whose_mask_is_damaged_is_quarantined(
    server: Server, tmp_path: Path, content: bytes, reason: str, suffix: str
) -> None:
    image = write_image(tmp_path / "in" / f"a.{suffix}")
    mask = tmp_path / "in" / f"a.{suffix}.msk"
    mask.write_bytes(content)
    for url in (image, f"{server.url}/{image.name}"):
        with pytest.raises(InputError, match=rf"its mask {mask.name} {reason}") as caught:
            described(url)
        assert caught.value.stage == "describe"
        (file,) = found(url)
        assert describe(file, Settings(nodata=0), 3).width == 50  # the mask is not asked
    mask.unlink()
    mask.symlink_to("nothing")
    with pytest.raises(InputError, match=rf"mask {mask.name} .* it is a link to .*/nothing, which"):
        described(image)


def test_a_mask_whose_pixels_are_damaged_is_named_when_it_is_read(
    server: Server, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    content = bytearray(mask_file(50, 40))
    with rasterio.MemoryFile(bytes(content)).open() as src:
        start = int(src.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    content[start : start + 20] = bytes(20)
    (tmp_path / "in" / "a.png.msk").write_bytes(bytes(content))
    for url in (image, f"{server.url}/a.png"):
        scene = described(url)
        with pytest.raises(InputError, match=r"cannot be read: its mask a\.png\.msk: "):
            read_pixels(scene, scene.rect)


def test_a_whole_mask_is_applied_and_one_without_flags_is_doubted(
    server: Server, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    mask = tmp_path / "in" / "a.png.msk"
    for content, invalid in (
        (mask_file(50, 40), 40),
        (mask_file(50, 40, INTERNAL_MASK_FLAGS_1=""), 0),
    ):
        mask.write_bytes(content)
        for url in (image, f"{server.url}/a.png"):
            scene = described(url)
            assert np.count_nonzero(~read_pixels(scene, scene.rect).valid_HW) == invalid
            assert [doubt.kind for doubt in doubts_beside_place(scene)] == ["side_car"] * (
                not invalid
            )


def test_links_to_no_side_car_are_doubted(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    for name in ("a.png.aux.xml", "a.pgw"):
        (tmp_path / name).symlink_to("nothing")
    scene = described(image)
    assert [d.detail for d in doubts_beside_place(scene)] == [
        f"{name}: it is a link to {tmp_path}/nothing, which does not exist"
        for name in ("a.png.aux.xml", "a.pgw")
    ]
    assert version_of(str(image), scene.sidecars, DEFAULT_ACCESS) == scene.version


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(range(256))])
def test_overviews_decide_nothing(tmp_path: Path, content: bytes) -> None:
    image = write_raster(tmp_path / "a.tif", noise(3, 40, 50))
    scene, pixels = described(image), read_pixels(described(image), described(image).rect)
    (tmp_path / "a.tif.ovr").write_bytes(content)
    assert described(image) == scene
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, pixels.values_CHW)


def test_a_page_that_a_server_sends_for_everything_is_no_side_car(
    server: Server, tmp_path: Path
) -> None:
    write_image(tmp_path / "in" / "a.png")
    server.answers_everything = True
    (file,) = found(f"{server.url}/a.png")
    assert file.sidecars == ()


def test_notes_name_the_side_car(tmp_path: Path, small_checkpoint: str) -> None:
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.pgw").touch()
    receipt = run([str(tmp_path / "in")], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert receipt.scenes_done == 2
    assert (
        "2 inputs have files beside them that say nothing, first"
        f" {tmp_path}/in/a.png (a.pgw: it holds no six numbers): such a file counts as absent;"
        " replace it or delete it"
    ) in receipt.notes

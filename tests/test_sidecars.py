"""Masks and other files beside an image: what a damaged one costs, on disk and remote alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from pipeline.api import run
from pipeline.doubt import Doubt
from pipeline.errors import InputError
from pipeline.imagery.header import describe
from pipeline.imagery.identity import version_of
from pipeline.imagery.pixels import read_pixels
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support import s3_server
from tests.support.rasters import doubts_beside_place, noise, write_raster
from tests.support.sidecars import (
    PLACED,
    SIX,
    described,
    found,
    mask_file,
    write_aux,
    write_erdas_aux,
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


ALIKE = np.full((3, 40, 50), 7, np.uint8)


@pytest.mark.parametrize(
    ("image_name", "name", "remote"),
    [
        ("a.tif", "a.aux", True),
        ("a.png", "a.aux", True),
        ("a+b.tif", "a+b.aux", True),
        ("a.tif", "a.tif.aux", False),
        ("a.tif", "a.AUX", False),
    ],
)
def test_the_aux_of_erdas_and_arcgis_decides_the_same_on_disk_and_remote(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_name: str, name: str,
    remote: bool,
) -> None:  # fmt: skip
    image = tmp_path / "in" / image_name
    driver = "PNG" if image.suffix == ".png" else "GTiff"
    write_raster(image, ALIKE, driver=driver, crs=None, transform=None)
    urls = [str(image), f"{server.url}/{image_name}"][: 1 + remote]
    before = [described(url).version for url in urls]
    if image_name != "a+b.tif":
        (tmp_path / image_name).write_text("GDAL looks for images in the present folder, too")
    monkeypatch.chdir(tmp_path)
    write_erdas_aux(image.with_name(name), image, nodata=7)
    for url, version in zip(urls, before, strict=True):
        scene = described(url)
        assert (scene.sidecars, scene.doubts) == ((name,), ())
        assert (scene.crs, scene.transform) == ("EPSG:32633", PLACED)
        assert not read_pixels(scene, scene.rect).valid_HW.any()
        assert scene.version == version_of(url, scene.sidecars, DEFAULT_ACCESS) != version
    assert version_of(urls[0], (), DEFAULT_ACCESS) == scene.version or remote


def test_an_aux_counts_only_where_gdal_reads_it(server: Server, tmp_path: Path) -> None:
    image = write_raster(tmp_path / "in" / "a.tif", ALIKE)
    urls = (str(image), f"{server.url}/a.tif")
    plain = [described(url) for url in urls]
    aux = image.with_suffix(".aux")
    aux.write_text(r"\\relax")  # of LaTeX
    assert [described(url) for url in urls] == plain
    write_erdas_aux(aux, image, width=49, nodata=7)
    for url in urls:
        scene = described(url)
        assert scene.doubts == (Doubt("side_car", "a.aux: it is damaged, or about another image"),)
        assert read_pixels(scene, scene.rect).valid_HW.all()
    write_erdas_aux(aux, image, nodata=7)
    with_aux = [described(url) for url in urls]
    write_aux(image)  # GDAL asks no further
    assert [described(url) for url in urls] == plain
    for scene in with_aux[:1]:
        assert version_of(scene.url, scene.sidecars, DEFAULT_ACCESS) == plain[0].version
    with rasterio.open(image) as src:
        assert src.nodata is None


@pytest.mark.s3
def test_the_aux_of_erdas_is_found_in_an_object_store(
    s3: s3_server.Server, s3_folder: str, tmp_path: Path
) -> None:
    del s3
    image = write_raster(tmp_path / "a.tif", ALIKE)
    write_erdas_aux(tmp_path / "a.aux", image, nodata=7)
    for path in (image, tmp_path / "a.aux"):
        s3_server.client().put_file(str(path), f"{s3_folder}/{path.name}")
    for url in (s3_folder, f"{s3_folder}/a.tif"):
        scene = described(url)
        assert scene.sidecars == ("a.aux",)
        assert not read_pixels(scene, scene.rect).valid_HW.any()


def test_a_folder_with_the_name_of_a_side_car_is_none(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.tif")
    for name in ("a.wld", "a.tif.msk", "a.tif.aux.xml", "a.aux"):
        (tmp_path / name).mkdir()
    for given in (tmp_path, image):
        scene = described(given)
        assert (scene.sidecars, doubts_beside_place(scene)) == ((), ())
        assert version_of(str(image), scene.sidecars, DEFAULT_ACCESS) == scene.version


@pytest.mark.parametrize("name", ["a.tfw", "A.TFW", "a.TFW"])
def test_on_a_disk_that_ignores_case_a_side_car_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    image = write_image(tmp_path / "a.tif")
    (tmp_path / name).write_text("\n".join(SIX))
    monkeypatch.setattr(os, "lstat", ignoring_case(os.lstat))
    monkeypatch.setattr(os, "stat", ignoring_case(os.stat))
    versions = set()
    for given in (tmp_path, image):
        scene = described(given)
        (sidecar,) = scene.sidecars
        assert sidecar.lower() == name.lower()
        versions |= {scene.version, version_of(str(image), scene.sidecars, DEFAULT_ACCESS)}
    assert len(versions) == 1


def ignoring_case(ask: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    """os.stat or os.lstat as on macOS, exFAT and SMB."""

    def answer(path: Any, **options: Any) -> os.stat_result:
        try:
            return ask(path, **options)
        except FileNotFoundError:
            folder, _, base = os.fspath(path).rpartition("/")
            for name in os.listdir(folder):
                if name.lower() == base.lower():
                    return ask(f"{folder}/{name}", **options)
            raise

    return answer


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

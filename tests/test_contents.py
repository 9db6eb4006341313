"""What an image file holds beside the image that is segmented is left out, and said."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image

from pipeline.api import plan, run
from pipeline.doubt import Doubt
from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Scene
from pipeline.settings import Execution, Settings
from tests.support.jpegs import encoded, picture_HWC, with_previews
from tests.support.rasters import TILES, noise, scene_of, write_raster

PICTURE = Image.fromarray(picture_HWC())


def doubts(scene: Scene) -> list[Doubt]:
    return [doubt for doubt in scene.doubts if doubt.kind != "unplaced"]


def saved(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, form, **options)
    return file.getvalue()


def pages(count: int) -> bytes:
    return saved("TIFF", save_all=True, append_images=[PICTURE.rotate(90)] * (count - 1))


def jpeg_2000(codestreams: int) -> bytes:
    """A JPEG 2000 file with further codestreams, as JPX allows."""
    data = saved("JPEG2000")
    at = data.index(b"jp2c") - 4
    box = data[at:]
    size = int.from_bytes(box[:4], "big") or len(box)
    return data[:at] + (size.to_bytes(4, "big") + box[4:]) * codestreams


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(exif=exif)


HOLDING: dict[str, tuple[bytes, list[Doubt]]] = {
    "one.tif": (pages(1), []),
    "two.tif": (pages(2), [Doubt("pages", "1 more page")]),
    "many.tif": (pages(12), [Doubt("pages", "11 more pages")]),
    "one.jpg": (encoded(), []),
    "previews.jpg": (with_previews(), [Doubt("images", "2 more images")]),
    "turned.jpg": (turned(6), [Doubt("orientation", "EXIF orientation 6")]),
    "upright.jpg": (turned(1), []),
    "one.jp2": (jpeg_2000(1), []),
    "three.jp2": (jpeg_2000(3), [Doubt("images", "2 more images")]),
}


@pytest.mark.parametrize("name", HOLDING)
def test_what_is_left_out_is_said_wherever_the_file_is(tmp_path: Path, name: str) -> None:
    data, expected = HOLDING[name]
    path = tmp_path / name
    path.write_bytes(data)
    scene = scene_of(path)
    assert doubts(scene) == expected
    assert not scene.mended
    values = read_pixels(scene, scene.rect).values_CHW
    exact = not name.endswith((".jpg", ".jp2"))
    assert np.allclose(values.transpose(1, 2, 0), picture_HWC(), atol=0 if exact else 60)
    fs = fsspec.filesystem("memory")
    fs.pipe(f"/{name}", data)
    try:
        file = InputFile(name, f"memory://{name}", "v1")
        assert doubts(describe(file, Settings(), channels=3)) == expected
    finally:
        fs.rm(f"/{name}")


def test_overviews_and_masks_are_no_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_raster(path, noise(3, 600, 600), mask=np.eye(600) == 0, **TILES)
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])
    assert not scene_of(path).doubts
    rasterio.shutil.copy(path, tmp_path / "cog.tif", driver="COG", BLOCKSIZE=128)
    assert not scene_of(tmp_path / "cog.tif").doubts


def test_subdatasets_beside_bands_are_said(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 20, 30))
    vrt = tmp_path / "a.vrt"
    rasterio.shutil.copy(path, vrt, driver="VRT")
    names = '<Metadata domain="SUBDATASETS">' + "".join(
        f'<MDI key="SUBDATASET_{n}_NAME">a{n}</MDI><MDI key="SUBDATASET_{n}_DESC">a</MDI>'
        for n in (1, 2)
    )
    text = vrt.read_text()
    at = text.index("<VRTRasterBand")
    vrt.write_text(f"{text[:at]}{names}</Metadata>{text[at:]}")
    assert scene_of(vrt).doubts == (Doubt("subdatasets", "2 subdatasets"),)


def test_a_run_notes_what_a_plan_notes(tmp_path: Path, small_checkpoint: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("one.tif", "two.tif", "many.tif", "previews.jpg", "three.jp2", "turned.jpg"):
        (folder / name).write_bytes(HOLDING[name][0])
    settings, execution = Settings(window=64, stride=64), Execution(runner="local")
    arguments = ([str(folder)], small_checkpoint)
    estimate = plan(*arguments, settings, execution)
    receipt = run(*arguments, str(tmp_path / "out"), settings, execution)
    for notes in (estimate.notes, receipt.notes):
        assert [n for n in notes if "2 inputs have more pages" in n and "GTIFF_DIR:2:IN" in n]
        assert [n for n in notes if "2 inputs have more images than the first one" in n]
        assert [n for n in notes if "turned.jpg (EXIF orientation 6)" in n]

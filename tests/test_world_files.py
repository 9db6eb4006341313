"""World files: the same place on disk and remote, and what a bad one costs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.doubt import Doubt
from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import IDENTITY
from pipeline.settings import Settings
from tests.support.jpegs import encoded, with_scan_parameters
from tests.support.rasters import doubts_beside_place, noise, write_raster
from tests.support.sidecars import (
    MAPINFO,
    PLACED,
    SIX,
    described,
    found,
    write_aux,
    write_image,
)
from tests.support.web_server import Server

WORLD_FILES: dict[str, tuple[bytes, bool]] = {
    "plain": ("\n".join(SIX).encode(), True),
    "windows": ("\r\n".join(SIX).encode() + b"\r\n", True),
    "comma": ("\n".join(SIX).replace("10", "10,0").encode(), True),
    "seventh": ("\n".join([*SIX, "0"]).encode(), True),
    "blank": ("\n\n".join(["", *SIX, " "]).encode(), True),
    "mark": (("\ufeff" + "\n".join(SIX)).encode(), True),
    "notepad": ("\n".join(SIX).encode("utf-16"), True),
    "comment": ("\n".join(f"{n}  of six" for n in SIX).encode(), True),
    "one_line": (" ".join(SIX).encode(), True),
    "exponent": ("\n".join(["1.0E+1", *SIX[1:]]).encode(), True),
    "empty": (b"", False),
    "five": ("\n".join(SIX[:5]).encode(), False),
    "words": ("\n".join(["a", *SIX[1:]]).encode(), False),
    "thousands": ("\n".join(["1,000.5", *SIX[1:]]).encode(), False),
    "zeros": (b"0\n" * 6, False),
    "vanishing": ("\n".join(["1e-12", "0", "0", "-1e-12", *SIX[4:]]).encode(), False),
    "nan": ("\n".join(["nan", *SIX[1:]]).encode(), False),
    "infinite": ("\n".join(["1e999", *SIX[1:]]).encode(), False),
    "bytes": (bytes(range(256)), False),
}
ENDINGS = {"png": "pgw", "jpg": "jgw", "tif": "tfw", "jp2": "j2w"}


@pytest.mark.parametrize("suffix", ENDINGS)
def test_a_world_file_means_the_same_on_disk_and_remote_and_costs_no_image(
    server: Server, tmp_path: Path, suffix: str
) -> None:
    image, world = write_image(tmp_path / "in" / f"a.{suffix}"), f"a.{ENDINGS[suffix]}"
    for name, (content, is_read) in WORLD_FILES.items():
        (tmp_path / "in" / world).write_bytes(content)
        for url in (str(image), f"{server.url}/{image.name}"):
            file = InputFile(image.name, url, name, sidecars=(world,))
            scene = describe(file, Settings(), 3)
            assert scene.transform == (PLACED if is_read else IDENTITY), name
            doubt = Doubt("side_car", f"{world}: it holds no six numbers")
            assert doubts_beside_place(scene) == (() if is_read else (doubt,)), name


def test_gdal_reads_the_same_where_it_reads_a_world_file(tmp_path: Path) -> None:
    for name in ("plain", "windows", "comma", "seventh", "blank", "comment", "exponent"):
        path = write_image(tmp_path / f"{name}.png")
        path.with_suffix(".pgw").write_bytes(WORLD_FILES[name][0])
        with rasterio.open(path) as src:
            assert tuple(src.transform)[:6] == described(path).transform == PLACED


def test_a_world_file_is_asked_last_and_the_next_one_if_it_says_nothing(
    server: Server, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.pgw").write_text("nothing")
    (tmp_path / "in" / "a.wld").write_text("\n".join(SIX))
    urls = (image, f"{server.url}/a.png")
    for url in urls:
        assert described(url).transform == PLACED
        assert doubts_beside_place(described(url)) == (
            Doubt("side_car", "a.pgw: it holds no six numbers"),
        )
    write_aux(image, "<GeoTransform>7,1,0,8,0,-1</GeoTransform>")
    for url in urls:
        assert described(url).transform == (1.0, 0.0, 7.0, 0.0, -1.0, 8.0)


def test_a_mapinfo_file_still_gives_place_and_crs(tmp_path: Path) -> None:
    """GDAL reads it on disk only, and prefers it to a world file."""
    path = write_image(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text("\n".join(SIX))
    (tmp_path / "a.tab").write_text(MAPINFO)
    scene = described(path)
    assert scene.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
    assert "UTM zone 33N" in str(scene.crs)


def test_a_format_of_several_files_keeps_its_place(tmp_path: Path) -> None:
    """Its header file is unknown to whoever opens the image without world files."""
    path = write_raster(tmp_path / "a.bil", noise(3, 40, 50), driver="EHdr")
    for name in tmp_path.glob("*.aux.xml"):
        name.unlink()
    (tmp_path / "a.blw").write_text("\n".join(SIX))
    (file,) = found(path)
    assert file.sidecars == ("a.blw",)
    with rasterio.open(path) as src:
        assert describe(file, Settings(), 3).transform == tuple(src.transform)[:6] != IDENTITY


@pytest.mark.parametrize("mended", [False, True])
def test_a_world_file_that_is_refused_costs_the_place_and_no_pixel(
    server: Server, tmp_path: Path, mended: bool
) -> None:
    data = encoded()
    (tmp_path / "in" / "a.jpg").write_bytes(with_scan_parameters(data, 0, 0, 0) if mended else data)
    (tmp_path / "in" / "a.jgw").write_text("\n".join(SIX))
    (file,) = found(f"{server.url}/a.jpg")
    assert file.sidecars == ("a.jgw",)
    server.refused["a.jgw"] = 403
    scene = describe(file, Settings(), 3)
    assert (scene.transform, scene.mended) == (IDENTITY, mended)
    assert Doubt("side_car", "a.jgw: it cannot be read") in scene.doubts
    with rasterio.open(io.BytesIO(data)) as src:
        np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, src.read())

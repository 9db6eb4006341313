"""Rasters of many kinds beside rasterio, Pillow and pyproj: the short version of
bench/promises/corpus.py, which must find what differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin
from rasterio.windows import Window

from bench.promises import corpus
from bench.support.comparison import Reading, compare, identify
from pipeline.doubt import Doubt
from pipeline.scene import Scene
from tests.support import raster_oracle
from tests.support.area_oracle import PixelAreas
from tests.support.raster_oracle import Header
from tests.support.rasters import TILES, noise, scene_of, write_raster

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
FLOATS = np.where(noise(2, 60, 70) > 9, noise(2, 60, 70, dtype="float32") / 7, np.nan)
TIFFS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "plain": (noise(3, 60, 70), {}),
    "tiles": (noise(3, 600, 1100), TILES | {"compress": "deflate", "predictor": 2}),
    "bands": (noise(4, 60, 70), {"interleave": "band", "compress": "lzw"}),
    "zstd": (noise(3, 60, 70), {"compress": "zstd", "nodata": 7}),
    "lerc": (noise(1, 60, 70, dtype="float32"), {"compress": "lerc", "nodata": 9}),
    "packbits": (noise(2, 60, 70, dtype="int16"), {"compress": "packbits", "nodata": -1}),
    "lzma": (noise(5, 60, 70, dtype="uint16"), {"compress": "lzma", "BIGTIFF": "YES"}),
    "jpeg": (noise(3, 60, 70), {"compress": "jpeg", "photometric": "ycbcr"}),
    "webp": (noise(3, 60, 70), {"compress": "webp"}),
    "floats": (FLOATS.astype(np.float32), {"compress": "deflate", "predictor": 3}),
    "doubles": (FLOATS, {"nodata": float("nan")}),
    "wide": (noise(1, 60, 70, dtype="uint32"), {"crs": "EPSG:3031"}),
    "masked": (noise(3, 60, 70), {"mask": noise(60, 70) > 99}),
    "alpha": (noise(4, 60, 70) // 200 * 255, {"colours": (*RGB, ColorInterp.alpha)}),
    "swapped": (noise(3, 60, 70), {"colours": RGB[::-1]}),
    "rotated": (noise(3, 60, 70), {"transform": Affine(8, 6, 5e5, 6, -8, 4e6)}),
    "global": (
        noise(1, 36, 72),
        {"crs": "EPSG:4326", "transform": from_origin(-180, 90, 5, 5)},
    ),
    "sinusoidal": (
        noise(1, 60, 70),
        {"crs": "ESRI:54008", "transform": from_origin(-2e6, 5e6, 5e4, 5e4)},
    ),
    "placeless": (noise(3, 60, 70), {"crs": None, "transform": Affine.identity()}),
}
COPIES = {
    "PNG": "png",
    "JPEG": "jpg",
    "JP2OpenJPEG": "jp2",
    "COG": "cog.tif",
    "HFA": "img",
    "GIF": "gif",
    "BMP": "bmp",
    "WEBP": "webp",
    "VRT": "vrt",
    "ENVI": "bil",
    "PCIDSK": "pix",
    "AAIGrid": "asc",
}
"""Driver -> suffix of a copy of the first of the rasters above that it can hold."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for name, (values_CHW, options) in TIFFS.items():
        write_raster(folder / f"{name}.tif", values_CHW, **options)
    with rasterio.open(folder / "plain.tif") as rgb, rasterio.open(folder / "global.tif") as gray:
        for driver, suffix in COPIES.items():
            source = gray if driver in ("GIF", "AAIGrid") else rgb
            rasterio.shutil.copy(source, folder / f"copy.{suffix}", driver=driver)
    (folder / "deep").mkdir()
    Image.fromarray(noise(60, 70) % 4, "P").save(folder / "deep" / "palette.png")
    write_raster(folder / "complex.tif", noise(1, 60, 70).astype("complex64"))
    (folder / "cut.tif").write_bytes((folder / "plain.tif").read_bytes()[:9000])
    cut = (folder / "complex.tif").read_bytes()
    (folder / "cut_complex.tif").write_bytes(cut[: len(cut) // 2])
    (folder / "text.tif").write_text("no image\n")
    (folder / "text.txt").write_text("no image either\n")
    return folder


@pytest.fixture(scope="module")
def records(folder: Path) -> dict[str, dict[str, Any]]:
    return {record["file"]: record for record in corpus.examine(folder)}


def test_every_readable_raster_is_read_as_rasterio_reads_it(
    records: dict[str, dict[str, Any]],
) -> None:
    assert {f: r["disagreements"] for f, r in records.items() if r["disagreements"]} == {}
    refused = {f: r["refused"] for f, r in records.items() if r["verdict"] == "refused"}
    assert refused.keys() - {"copy.gif", "deep/palette.png"} == {"complex.tif"}
    assert "holds complex numbers" in refused["complex.tif"][0]
    both = {f for f, r in records.items() if r["verdict"] == "refused by both"}
    assert both == {"cut.tif", "cut_complex.tif", "text.tif"}
    assert len(records) == len(TIFFS) + len(COPIES) + 5
    assert {r["driver"] for r in records.values() if "driver" in r} >= COPIES.keys() - {"COG"}
    placed = {f for f, r in records.items() if r["areas"]}
    assert {"rotated.tif", "global.tif", "sinusoidal.tif", "wide.tif", "copy.asc"} <= placed
    assert records["tiles.tif"]["windows"] == 2
    assert records["lzma.tif"]["windows"] == 2  # three bands, then all five


def test_the_summary_counts_what_was_tried(records: dict[str, dict[str, Any]]) -> None:
    summary = corpus.summarize(list(records.values()))
    assert summary["tried"] == len(records)
    assert sum(summary["verdicts"].values()) == len(records)
    assert summary["compressions"]["ZSTD"] == 1
    assert summary["refused"]["holds complex numbers (complex#)"]["files"] == 1
    assert summary["disagreements"] == {}
    lines = corpus.table(summary).splitlines()
    assert lines[0].split() == [str(len(records)), "rasters", "tried"]
    assert not any(line.startswith("DIFFERS") for line in lines)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("swapped", {"bands": (1, 2, 3)}, ""),
        ("rotated", {"url": "swapped.tif"}, "0,0 70x60: band 1: "),
        ("alpha", {"nodata": 7.0}, "0,0 70x60: validity: "),
        ("rotated", {"width": 69}, "size: (69, 60), but the file says (70, 60)"),
        ("rotated", {"transform": (8.0, 6.0, 5e5, 6.0, -8.1, 4e6)}, "pixel 0,0: 100.8"),
        ("rotated", {"crs": "EPSG:3031"}, "pixel 0,0: "),
        ("rotated", {"crs": None}, "has no CRS, but rasterio says EPSG:32618"),
        ("rotated", {"palette": True}, "palette: True, but the file says False"),
        ("rotated", {"alpha_is_data": True}, "alpha_is_data: True, but the file says False"),
    ],
)
def test_a_scene_that_differs_from_its_file_is_found(
    name: str, change: dict[str, Any], words: str, folder: Path
) -> None:
    path = folder / f"{name}.tif"
    scene = scene_of(path)
    assert compare(Reading(str(path), scene))["disagreements"] == []
    if "url" in change:
        reordered = np.ascontiguousarray(noise(3, 60, 70)[::-1])
        change = {"url": str(write_raster(path.with_name("other.tif"), reordered))}
    report = compare(Reading(str(path), replace(scene, **change)))
    path.with_name("other.tif").unlink(missing_ok=True)
    assert words in " ".join(report["disagreements"])
    assert bool(words) == bool(report["disagreements"])


def test_a_refusal_of_what_rasterio_reads_is_no_agreement(folder: Path) -> None:
    path = folder / "plain.tif"
    scene = replace(scene_of(path), url=str(folder / "cut.tif"))
    report = compare(Reading(str(path), scene))
    assert (report["refused_by_both"], report["disagreements"]) == (0, [])
    assert "cut.tif: window 0,0 70x60 cannot be read: " in report["refused"][0]
    report = compare(Reading(str(folder / "cut.tif"), scene))
    assert (report["refused_by_both"], report["refused"]) == (1, [])
    report = compare(Reading(str(folder / "cut.tif"), scene_of(path)))
    assert "0,0 70x60: is read, but not by rasterio: " in report["disagreements"][0]


def test_own_rules_are_listed(folder: Path) -> None:
    path = folder / "plain.tif"
    scene = replace(scene_of(path), doubts=(Doubt("pages", "3"),), bits=1)
    assert compare(Reading(str(path), scene))["decided"] == ["pages", "few_bits"]


def test_the_program_ends_with_1_if_something_differs(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tif"
    path.write_bytes((folder / "plain.tif").read_bytes())
    for code in (0, 1):
        command = ["corpus", str(tmp_path / "in"), "--lines", str(tmp_path / "lines.jsonl")]
        monkeypatch.setattr(sys, "argv", command)
        if code:  # by its corners, a pixel around the Earth has another area
            write_raster(path, noise(3, 9, 9), crs="EPSG:4326", transform=from_origin(0, 0, 360, 1))
        with pytest.raises(SystemExit) as ended:
            corpus.main()
        captured = capsys.readouterr()
        summary = json.loads(captured.out.splitlines()[-1])
        (line,) = (tmp_path / "lines.jsonl").read_text().splitlines()
        assert json.loads(line)["verdict"] == ["agrees", "disagrees"][code]
        assert ended.value.code == code
        assert ("DIFFERS  a.tif: pixel 0,0: " in captured.err) == bool(code)
        assert list(summary["disagreements"]) == ["a.tif"] * code


# --- the oracles ----------------------------------------------------------------------------------


def one_bit(path: Path, **options: Any) -> None:
    write_raster(path, noise(1, 60, 70) % 2, NBITS=1, **options)


def four_bits(path: Path, **options: Any) -> None:
    write_raster(path, noise(1, 60, 70) % 16, NBITS=4, **options)


@pytest.mark.parametrize(
    "write",
    [
        one_bit,
        lambda path: one_bit(path, photometric="MINISWHITE"),
        four_bits,
        lambda path: four_bits(path, photometric="MINISWHITE"),
        lambda path: write_raster(path, noise(1, 60, 70), photometric="MINISWHITE"),
    ],
)
def test_expansions_by_rasterios_header_are_pillows(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "image.tif"
    write(path)
    header = identify(str(path))
    assert isinstance(header, Header)
    assert not header.is_plain
    pillow = raster_oracle.read_by_pillow(path, header)
    assert pillow is not None
    bands = tuple(range(1, len(pillow) + 1))
    with rasterio.open(path) as src:
        values_CHW, valid_HW = raster_oracle.read(
            src, header, bands, Window(0, 0, 70, 60), alpha_is_data=False
        )
    assert valid_HW.all()
    np.testing.assert_array_equal(values_CHW, pillow)
    assert values_CHW.max() >= 254


def test_areas_are_those_of_closed_formulas() -> None:
    wgs84 = PixelAreas(rasterio.CRS.from_epsg(4326).to_wkt(), (90, 0, -180, 0, -90, 90))
    octant_m2 = 510_065_621_724_088.5 / 8
    for col in range(4):
        assert wgs84.of(col, 0) == pytest.approx(octant_m2, rel=1e-3)
    wgs84 = PixelAreas(rasterio.CRS.from_epsg(4326).to_wkt(), (1, 0, -180, 0, -1, 90))
    band_m2 = sum(wgs84.of(7, row) or 0.0 for row in range(180))
    assert band_m2 * 360 == pytest.approx(8 * octant_m2, rel=1e-7)
    assert wgs84.of(0, -1) is None  # beyond the pole
    cea = PixelAreas(rasterio.CRS.from_epsg(6933).to_wkt(), (1e5, 0, 0, 0, -1e5, 5e6))
    assert cea.of(3, 4) == pytest.approx(1e10, rel=1e-6)
    assert cea.of(0, -40) is None
    moon = "IAU_2015:30100"
    assert not PixelAreas(rasterio.CRS.from_user_input(moon).to_wkt(), (1, 0, 0, 0, 1, 0)).is_earth
    with pytest.raises(ValueError, match="no longitudes"):
        PixelAreas('LOCAL_CS["site",UNIT["metre",1]]', (1, 0, 0, 0, 1, 0))


def test_large_images_are_compared_in_some_windows(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((1, 6000, 6000), "uint8"), **TILES)
    scene: Scene = scene_of(path, channels=1)
    assert compare(Reading(str(path), scene))["windows"] == 16

"""An archive whose rows depend on what the environment of a process could decide, and everything
that Swath takes from it: places, pixels, areas and outlines.

`main` prints it as JSON, for processes with another environment.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.transform import from_origin

from pipeline.earth.area import CellAreas
from pipeline.earth.footprint import footprints
from pipeline.imagery.header_pool import HeaderPool
from pipeline.imagery.source import SOURCES, describe_inputs, find_inputs
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.archives import picture
from tests.support.rasters import write_raster

SIZE = 96
CORNERS = {
    "EPSG:2154": (600_000, 6_700_000),
    "EPSG:3035": (4_300_000, 3_200_000),
    "EPSG:27700": (400_000, 400_000),
    "EPSG:7405": (400_000, 400_000),
    "EPSG:3857": (600_000, 6_700_000),
    "EPSG:5070": (0, 2_000_000),
    "EPSG:32633": (500_000, 5_000_000),
    "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84": (0, 0),
}
"""x and y of the upper left corner of a raster in each CRS."""


def write_places(folder: Path) -> Path:
    """Write the archive, and return its folder."""
    folder.mkdir()
    values_CHW = picture(SIZE, SIZE)
    for number, (crs, corner) in enumerate(CORNERS.items()):
        place = {"crs": crs, "transform": from_origin(*corner, 10, 10)}
        write_raster(folder / f"{number}.tif", values_CHW, **place)
    degrees = {"crs": "EPSG:4326", "transform": from_origin(2, 50, 1e-4, 1e-4)}
    write_raster(folder / "degrees.tif", values_CHW, **degrees, nodata=int(values_CHW[0, 0, 0]))
    with rasterio.open(write_raster(folder / "point.tif", values_CHW), "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    image = Image.fromarray(values_CHW.transpose(1, 2, 0))
    image.save(folder / "world.png")
    (folder / "world.pgw").write_text("10\n0\n0\n-10\n500000\n5000000\n")
    image.save(folder / "plain.jpg")
    tags = ImageFileDirectory_v2()
    tags[306] = "2020:01:02 03:04:05"
    image.save(folder / "dated.tif", tiffinfo=tags)
    image.save(folder / "Ü.tif")
    return folder


def describe_places(folder: Path) -> dict[str, Any]:
    """What Swath takes from each file: a message if it is refused."""
    files = find_inputs([str(folder)], DEFAULT_ACCESS)
    described = describe_inputs(files, Settings(), 3, DEFAULT_ACCESS, HeaderPool())
    return {
        result.scene_id if isinstance(result, Scene) else result.failure.scene_id: (
            _taken(result) if isinstance(result, Scene) else result.failure.message
        )
        for result in described.results
    }


def _taken(scene: Scene) -> list[Any]:
    pixels = SOURCES[scene.source].read(scene, scene.rect, DEFAULT_ACCESS)
    parts: list[Any] = [_hash(pixels.values_CHW), _hash(pixels.valid_HW)]
    if scene.crs:
        areas = CellAreas(scene.crs, scene.transform, scene.width, scene.height)
        (outline,) = footprints(scene.crs, scene.transform, [scene.rect])
        parts += [_hash(areas.of(scene.rect)), outline.wkb.hex() if outline else None]
    return [*parts, scene.crs, list(scene.transform), scene.datetime, list(scene.bands)]


def _hash(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()[:16]


def main() -> None:
    """Print what Swath takes from the files of the folder that the command line names."""
    json.dump(describe_places(Path(sys.argv[1])), sys.stdout)

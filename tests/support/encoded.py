"""Files whose stored values are not what a network should get, each beside a plain file of the
values that it should, and GDAL's own expansion of a color table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil

from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Rect, Scene
from tests.support.rasters import write_raster

COLORS = np.random.default_rng(5).integers(0, 256, (256, 4), dtype=np.uint8)
"""A color table."""
COLORS[:, 3] = 255


def write_with_table(path: Path, index: np.ndarray, table: np.ndarray, **options: object) -> Path:
    """Write a GeoTIFF of indices (1, height, width) with a color table."""
    write_raster(path, index, photometric="palette", **options)
    with rasterio.open(path, "r+") as out:
        out.write_colormap(1, {i: tuple(map(int, color)) for i, color in enumerate(table)})
    return path


def write_vrt(path: Path, source: Path, table: np.ndarray, dtype: str = "Byte") -> Path:
    """Write a virtual raster of a file of indices and a color table, which may be short."""
    with rasterio.open(source) as src:
        width, height = src.width, src.height
    entries = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*row) for row in table)
    band = (
        f'<VRTRasterBand dataType="{dtype}" band="1"><ColorInterp>Palette</ColorInterp>'
        f"<ColorTable>{entries}</ColorTable><SimpleSource><SourceFilename>{source}"
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    )
    path.write_text(_dataset(width, height, band))
    return path


def expand(source: Path, target: Path) -> Path:
    """Write the image of four bands that GDAL makes of a file with a color table, as
    `gdal_translate -expand rgba` does."""
    with rasterio.open(source) as src:
        width, height = src.width, src.height
    names = "Red", "Green", "Blue", "Alpha"
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><ColorInterp>{name}</ColorInterp>'
        f"<ComplexSource><SourceFilename>{source}</SourceFilename><SourceBand>1</SourceBand>"
        f"<ColorTableComponent>{n}</ColorTableComponent></ComplexSource></VRTRasterBand>"
        for n, name in enumerate(names, start=1)
    )
    vrt = target.with_suffix(".vrt")
    vrt.write_text(_dataset(width, height, bands))
    rasterio.shutil.copy(vrt, target, driver="GTiff", photometric="rgb", alpha="yes")
    return target


def assert_reads_alike(scene: Scene, other: Scene) -> None:
    """Check that two scenes give the same valid pixels and the same values there, as a whole and in
    windows across their storage tiles."""
    windows = [Rect(3, 5, 7, 1), Rect(scene.width // 3, 0, scene.width // 2, scene.height)]
    windows.append(Rect(scene.width - 1, scene.height - 1, 1, 1))
    for rect in (scene.rect, *windows):
        one, two = read_pixels(scene, rect), read_pixels(other, rect)
        assert one.values_CHW.dtype == scene.values_dtype
        np.testing.assert_array_equal(one.valid_HW, two.valid_HW)
        at = one.valid_HW
        np.testing.assert_array_equal(one.values_CHW[:, at], two.values_CHW[:, at])


def noise_to(largest: int, width: int, height: int, bands: int = 1) -> np.ndarray:
    """Random uint8 values from 0 to the largest, both included."""
    shape = bands, height, width
    values = np.random.default_rng(8).integers(0, largest, shape, np.uint8, endpoint=True)
    values[:, 0, 0], values[:, 0, 1] = 0, largest
    return values


def _dataset(width: int, height: int, bands: str) -> str:
    return f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">{bands}</VRTDataset>'

"""Archives written for tests, and the masks that runs leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from pipeline.output.layout import Output
from pipeline.output.masks import SceneMask


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Blocky random colors, uint8 (3, height, width)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, height // 12 + 1, width // 12 + 1), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 12, 12), np.uint8))[:, :height, :width].copy()


def write_scene(  # noqa: PLR0913 - properties of a raster
    path: Path,
    width: int,
    height: int,
    *,
    seed: int = 0,
    values: np.ndarray | None = None,
    nodata: float | None = None,
    tiled: bool = True,
    crs: str = "EPSG:32633",
) -> Path:
    """Write a GeoTIFF, in UTM 33N with 10 m pixels unless another CRS is given; return its path."""
    values = picture(width, height, seed) if values is None else values
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=len(values),
        dtype=values.dtype,
        crs=crs,
        transform=from_origin(500_000, 5_000_000, 10, 10),
        nodata=nodata,
        tiled=tiled,
        blockxsize=256 if tiled else width,
        blockysize=256 if tiled else 16,
        compress="deflate",
    ) as file:
        file.write(values)
    return path


def mask_of(output: Path, scene_id: str) -> np.ndarray:
    """The class ids of a published scene, (height, width)."""
    with SceneMask.open(Output.open(str(output)), scene_id) as mask:
        return mask.read(mask.rect)

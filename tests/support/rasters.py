"""Rasters of any kind written by rasterio, and their scenes as the imagery room describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

from pipeline.doubt import Doubt
from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.scene import Scene
from pipeline.settings import Settings

UTM = {"crs": "EPSG:32618", "transform": Affine(10, 0, 5e5, 0, -10, 4e6)}
SCALED = Settings(scale=0.0001)
TILES = {"tiled": True, "blockxsize": 256, "blockysize": 256}


def scene_of(path: Path, settings: Settings = SCALED, channels: int = 3) -> Scene:
    """The scene of a file whose header is read in this process."""
    aux = path.with_name(f"{path.name}.aux.xml")  # GDAL writes one for what a format cannot hold
    sidecars = (aux.name,) if aux.exists() else ()
    return describe(InputFile(path.name, str(path), "v1", sidecars), settings, channels)


def doubts_beside_place(scene: Scene) -> tuple[Doubt, ...]:
    """The scene's doubts, without those about its place on Earth."""
    return tuple(doubt for doubt in scene.doubts if doubt.kind not in ("unplaced", "no_crs"))


def write_raster(path: Path, values_CHW: np.ndarray, **options: Any) -> Path:
    """Write a raster, a GeoTIFF in UTM 18N unless other options are given, and return its path.

    options: those of `rasterio.open`; `colours`, the color interpretation of each band; `mask`, a
    mask for all of them.
    """
    options = {"driver": "GTiff", **UTM, **options}
    colours = options.pop("colours", None)
    mask = options.pop("mask", None)
    count, height, width = values_CHW.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, dtype=values_CHW.dtype, **options
    ) as out:
        if colours:
            out.colorinterp = colours
        out.write(values_CHW)
        if mask is not None:
            out.write_mask(mask)
    return path


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    """Random values from 1 to 249, the same ones for the same shape."""
    return np.random.default_rng(7).integers(1, 250, shape).astype(dtype)

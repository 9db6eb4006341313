"""The class ids of a block to rows of `masks`: one per mask tile that has data.

A row depends on its mask tile alone: every sum over pixels is made here, per tile, in row order.
Knows neither the network nor files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.earth.area import AreaLines, CellAreas
from pipeline.earth.footprint import footprints
from pipeline.grid import mask_tiles
from pipeline.output.class_sums import ClassSums, SumClasses
from pipeline.output.schemas import UNIT
from pipeline.output.tables import Lists
from pipeline.scene import Affine6, Rect, Scene, tile_transform
from pipeline.unit import CONFIDENCE_SCALE, Block, Stitched, nodata_value

MaskRow = dict[str, Any]
"""A row of a unit's file, with `mask` as an array, and `classes` instead of the two lists of
structs: an array for each of their fields, with a value per class that occurs."""


def mask_rows(block: Block, result: Stitched, sum_classes: SumClasses) -> tuple[list[MaskRow], int]:
    """One row per mask tile of the block that has data, row by row, and the number of valid pixels
    outside the domain of the scene's CRS."""
    scene, core, classes = block.scene, block.core, result.samples_TK.shape[1]
    areas_of = _areas(scene, core)
    rows, rects, without_area = [], [], 0
    for tile, (tile_col, tile_row, rect) in enumerate(mask_tiles(core)):
        top, left = rect.row_off - core.row_off, rect.col_off - core.col_off
        ids_HW = result.class_ids_HW[top : top + rect.height, left : left + rect.width]
        if ids_HW.min() >= classes:
            continue
        ids_HW = np.array(ids_HW, order="C")
        sums = sum_classes(ids_HW, areas_of(rect), classes)
        confidence_K, samples_K = result.confidence_TK[tile], result.samples_TK[tile]
        grid = _grid_columns(scene, rect, ids_HW, classes)
        sums_columns = _sums_columns(sums, confidence_K, samples_K)
        rows.append({"tile_col": tile_col, "tile_row": tile_row, **grid, **sums_columns})
        rects.append(rect)
        without_area += int(sums.without_area_K.sum())
    for row, place in zip(rows, place_columns(scene, rects), strict=True):
        row.update(place)
    return rows, without_area


def _grid_columns(scene: Scene, rect: Rect, ids_HW: np.ndarray, classes: int) -> MaskRow:
    """The columns that say where a tile is, and its mask."""
    return {
        "scene_id": scene.scene_id,
        "col_off": rect.col_off,
        "row_off": rect.row_off,
        "width": rect.width,
        "height": rect.height,
        "mask_dtype": ids_HW.dtype.name,
        "nodata": nodata_value(classes),
        "crs": scene.crs,
        "transform": tile_transform(scene.transform, rect.col_off, rect.row_off),
        "mask": ids_HW,
    }


def _sums_columns(sums: ClassSums, confidence_K: np.ndarray, samples_K: np.ndarray) -> MaskRow:
    """The columns that are sums over a tile's pixels."""
    of_all = {
        "pixels": sums.pixels_K,
        "area_m2": sums.area_m2_K,
        "confidence": confidence_K,
        "samples": samples_K,
    }
    present = np.flatnonzero(sums.pixels_K)
    return {
        "valid_pixels": int(sums.pixels_K.sum()),
        "majority_class": int(sums.pixels_K.argmax()),
        "mean_confidence": mean_confidence(int(confidence_K.sum()), int(samples_K.sum())),
        "classes": {"class_id": present, **{name: of_K[present] for name, of_K in of_all.items()}},
    }


def unit_columns(rows: list[MaskRow]) -> dict[str, list[Any] | Lists]:
    """The columns of a unit's file."""
    if not rows:
        return {name: [] for name in UNIT.names}
    plain = {name: [row[name] for row in rows] for name in UNIT.names if name in rows[0]}
    lengths = [len(row["classes"]["class_id"]) for row in rows]
    fields = {
        name: np.concatenate([row["classes"][name] for row in rows]) for name in rows[0]["classes"]
    }
    without_crs = np.repeat([row["crs"] is None for row in rows], lengths)
    unsampled = fields["samples"] == 0
    mean = fields["confidence"] / np.where(unsampled, 1, fields["samples"]) / CONFIDENCE_SCALE
    fields["area_m2"] = np.ma.masked_array(fields["area_m2"], without_crs)
    fields["mean_confidence"] = np.ma.masked_array(mean, unsampled)
    lists = Lists(lengths, fields)
    return {**plain, "class_pixels": lists, "class_confidence": lists}


def mean_confidence(confidence: int, samples: int) -> float | None:
    """The mean of a probability from its integer sum, 0 to 1; None without a sampled pixel."""
    return float(confidence / samples / CONFIDENCE_SCALE) if samples else None


def place_columns(scene: Scene, rects: list[Rect]) -> list[MaskRow]:
    """The columns geometry and bbox of rectangles of a scene; null without a CRS, or outside its
    domain."""
    if scene.crs is None:
        return [{"geometry": None, "bbox": None} for _ in rects]
    return [
        {"geometry": outline and outline.wkb, "bbox": outline and _bbox_struct(outline.bbox)}
        for outline in footprints(scene.crs, scene.transform, rects)
    ]


def _bbox_struct(bbox: tuple[float, float, float, float]) -> dict[str, float]:
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), bbox, strict=True))


def _areas(scene: Scene, core: Rect) -> Callable[[Rect], AreaLines | None]:
    """The areas of the pixels of a rectangle inside `core`; None without a CRS."""
    if scene.crs is None:
        return lambda _: None
    return _cell_areas(scene.crs, scene.transform, scene.width, scene.height).over(core)


@functools.lru_cache(maxsize=64)
def _cell_areas(crs: str, transform: Affine6, width: int, height: int) -> CellAreas:
    return CellAreas(crs, transform, width, height)

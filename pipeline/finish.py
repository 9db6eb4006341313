"""Class ids of a unit to the rows of its file.

A row depends on its mask tile alone: every sum over pixels is made here, per tile, in row order.
Knows neither the network nor where files lie.
"""

from __future__ import annotations

import functools
import io
import time
from collections import Counter
from typing import Any

import numpy as np

from pipeline.area import CellAreas
from pipeline.footprint import footprint
from pipeline.grid import mask_tiles
from pipeline.receipt import Failure
from pipeline.scene import Affine6, Block, Rect, Scene, tile_transform
from pipeline.tables import UNIT, bbox_struct, table_of, write_table
from pipeline.unit import CONFIDENCE_SCALE, SegmentedUnit, Stitched, nodata_value


def unit_file(segmented: SegmentedUnit) -> bytes:
    """The unit's Parquet file: one row per mask tile with data, and the outcome in its footer.

    The outcome is {"failures", "windows", "pixels_without_area", "area_m2", "read_s", "segment_s",
    "finish_s", "retries", "gpu_bytes", "gpu_busy", "brightness"} (pixels by scene_id; seconds;
    finish_s up to the writing of the file; gpu_* as in GpuUse, None on a CPU): a unit all of whose
    blocks failed has no rows and still an outcome.
    """
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    without_area: Counter[str] = Counter()
    for block, result in zip(segmented.unit.blocks, segmented.blocks, strict=True):
        if isinstance(result, Failure):
            failures.append(result.to_json())
            continue
        block_rows, missing = _block_rows(block, result)
        rows += block_rows
        if missing:
            without_area[block.scene.scene_id] += missing
    outcome = {
        "failures": failures,
        "windows": segmented.windows,
        "pixels": segmented.unit.pixels,
        "pixels_without_area": without_area,
        "area_m2": sum(pixels["area_m2"] or 0.0 for row in rows for pixels in row["class_pixels"]),
        "read_s": segmented.read_s,
        "segment_s": segmented.segment_s,
        "retries": segmented.retries,
        "gpu_bytes": segmented.gpu and segmented.gpu.peak_bytes,
        "gpu_busy": segmented.gpu and segmented.gpu.busy,
        "brightness": segmented.brightness,
    }
    table = table_of(rows, UNIT)
    outcome["finish_s"] = time.perf_counter() - started
    file = io.BytesIO()
    write_table(file, table, outcome)
    return file.getvalue()


def _block_rows(block: Block, result: Stitched) -> tuple[list[dict[str, Any]], int]:
    """Rows of the block's mask tiles, and how many valid pixels have no area."""
    classes = result.samples_TK.shape[1]
    rows = []
    without_area = 0
    for tile, (tile_col, tile_row, rect) in enumerate(mask_tiles(block.core)):
        top, left = rect.row_off - block.core.row_off, rect.col_off - block.core.col_off
        ids_HW = result.class_ids_HW[top : top + rect.height, left : left + rect.width]
        bins_N = ids_HW.ravel().astype(np.intp)  # what bincount would make of them, each time
        pixels_K = _per_class(bins_N, classes)
        if not pixels_K.any():
            continue
        areas_K, missing = _areas(block.scene, rect, bins_N, classes)
        without_area += missing
        confidence_K, samples_K = result.confidence_TK[tile], result.samples_TK[tile]
        present = [int(k) for k in np.flatnonzero(pixels_K)]
        scene = block.scene
        rows.append(
            {
                "scene_id": scene.scene_id,
                "tile_col": tile_col,
                "tile_row": tile_row,
                "col_off": rect.col_off,
                "row_off": rect.row_off,
                "width": rect.width,
                "height": rect.height,
                "valid_pixels": int(pixels_K.sum()),
                "majority_class": int(pixels_K.argmax()),
                "mean_confidence": mean_confidence(int(confidence_K.sum()), int(samples_K.sum())),
                "class_pixels": [
                    {
                        "class_id": k,
                        "pixels": int(pixels_K[k]),
                        "area_m2": None if areas_K is None else float(areas_K[k]),
                        "mean_confidence": mean_confidence(confidence_K[k], samples_K[k]),
                    }
                    for k in present
                ],
                "mask_dtype": ids_HW.dtype.name,
                "nodata": nodata_value(classes),
                "crs": scene.crs,
                "transform": tile_transform(scene.transform, rect.col_off, rect.row_off),
                **place(scene, rect),
                "mask": np.ascontiguousarray(ids_HW).tobytes(),
                "class_confidence": [
                    {
                        "class_id": k,
                        "confidence": int(confidence_K[k]),
                        "samples": int(samples_K[k]),
                    }
                    for k in present
                ],
            }
        )
    return rows, without_area


def mean_confidence(confidence: int, samples: int) -> float | None:
    """None where no sampled pixel has the class."""
    return float(confidence / samples / CONFIDENCE_SCALE) if samples else None


def place(scene: Scene, rect: Rect) -> dict[str, Any]:
    """The columns geometry and bbox of a rectangle of a scene; null without a CRS."""
    found = footprint(scene.crs, scene.transform, rect) if scene.crs else None
    if found is None:
        return {"geometry": None, "bbox": None}
    return {"geometry": found.wkb, "bbox": bbox_struct(found.bbox)}


def _areas(
    scene: Scene, rect: Rect, bins_N: np.ndarray, classes: int
) -> tuple[np.ndarray | None, int]:
    if scene.crs is None:
        return None, 0
    areas_N = _cell_areas(scene.crs, scene.transform, scene.width, scene.height).of(rect).ravel()
    without = 0 if areas_N.all() else int(_per_class(bins_N[areas_N == 0], classes).sum())
    return _per_class(bins_N, classes, areas_N), without


def _per_class(bins_N: np.ndarray, classes: int, weights_N: np.ndarray | None = None) -> np.ndarray:
    """Pixels of each class, or the sum of their weights, added one after the other: in one order,
    whatever the machine. Nodata is a bin beyond the classes, which is cheaper than leaving it out.
    """
    return np.bincount(bins_N, weights_N, nodata_value(classes) + 1)[:classes]


@functools.lru_cache(maxsize=64)
def _cell_areas(crs: str, transform: Affine6, width: int, height: int) -> CellAreas:
    return CellAreas(crs, transform, width, height)

"""Class ids of a unit to the rows of its file.

A row depends on its mask tile alone: every sum over pixels is made here, per tile, in row order.
Knows neither the network nor where files lie.
"""

from __future__ import annotations

import functools
import io
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.earth.area import AreaLines, CellAreas
from pipeline.earth.footprint import footprints
from pipeline.failure import Failure
from pipeline.grid import mask_tiles
from pipeline.output.class_sums import ClassSums, SumClasses, plain_sums
from pipeline.output.parquet import write_table
from pipeline.output.schemas import UNIT
from pipeline.output.tables import Lists, table_of_columns
from pipeline.scene import Affine6, Rect, Scene, tile_transform
from pipeline.unit import (
    CONFIDENCE_SCALE,
    Block,
    SegmentedUnit,
    Stitched,
    UnitOutcome,
    nodata_value,
)


def unit_file(segmented: SegmentedUnit) -> bytes:
    """The unit's Parquet file: one row per mask tile with data, and the UnitOutcome in its footer.

    A unit all of whose blocks failed has no rows, but has an outcome.
    """
    started, gpu = time.perf_counter(), segmented.gpu
    sum_classes = _sums_beside(gpu=gpu is not None)
    rows: list[dict[str, Any]] = []
    failures: list[Failure] = []
    without_area: Counter[str] = Counter()
    for block, result in zip(segmented.unit.blocks, segmented.blocks, strict=True):
        if isinstance(result, Failure):
            failures.append(result)
            continue
        block_rows, missing = _block_rows(block, result, sum_classes)
        rows += block_rows
        if missing:
            without_area[block.scene.scene_id] += missing
    area_m2 = sum(m2 for row in rows for m2 in row["classes"]["area_m2"].tolist())
    table = table_of_columns(_columns(rows), UNIT)
    del rows  # the masks are in the table now
    outcome = UnitOutcome(
        failures=tuple(failures),
        windows=segmented.windows,
        pixels_without_area=without_area,
        area_m2=area_m2,
        read_s=segmented.read_s,
        segment_s=segmented.segment_s,
        finish_s=time.perf_counter() - started,
        retries=segmented.retries,
        gpu_bytes=gpu.peak_bytes if gpu else None,
        gpu_busy=gpu.busy if gpu else None,
        brightness=segmented.brightness,
    )
    file = io.BytesIO()
    write_table(file, table, outcome.to_json())
    return file.getvalue()


def _sums_beside(gpu: bool) -> SumClasses:
    """The compiled loop beside a GPU, which would wait for less. Beside a CPU it would not make up
    for numba, which takes 0.4 s and 115 MB in each process."""
    if gpu:
        from pipeline.output.class_sums_compiled import compiled_sums  # noqa: PLC0415

        return compiled_sums
    return plain_sums


def _block_rows(
    block: Block, result: Stitched, sum_classes: SumClasses
) -> tuple[list[dict[str, Any]], int]:
    """Of each of the block's mask tiles with data the values of its row, the mask an array and of
    the classes what `_classes` gives; how many valid pixels have no area."""
    scene, core, classes = block.scene, block.core, result.samples_TK.shape[1]
    areas_of = _areas(scene, core)
    rows, rects = [], []
    without_area = 0
    for tile, (tile_col, tile_row, rect) in enumerate(mask_tiles(core)):
        top, left = rect.row_off - core.row_off, rect.col_off - core.col_off
        ids_HW = result.class_ids_HW[top : top + rect.height, left : left + rect.width]
        if ids_HW.min() >= classes:
            continue
        ids_HW = np.array(ids_HW, order="C")
        sums = sum_classes(ids_HW, areas_of(rect), classes)
        without_area += int(sums.without_area_K.sum())
        confidence_K, samples_K = result.confidence_TK[tile], result.samples_TK[tile]
        rects.append(rect)
        rows.append(
            {
                "scene_id": scene.scene_id,
                "tile_col": tile_col,
                "tile_row": tile_row,
                "col_off": rect.col_off,
                "row_off": rect.row_off,
                "width": rect.width,
                "height": rect.height,
                "valid_pixels": int(sums.pixels_K.sum()),
                "majority_class": int(sums.pixels_K.argmax()),
                "mean_confidence": mean_confidence(int(confidence_K.sum()), int(samples_K.sum())),
                "mask_dtype": ids_HW.dtype.name,
                "nodata": nodata_value(classes),
                "crs": scene.crs,
                "transform": tile_transform(scene.transform, rect.col_off, rect.row_off),
                "mask": ids_HW,
                "classes": _classes(sums, confidence_K, samples_K),
            }
        )
    for row, place in zip(rows, places(scene, rects), strict=True):
        row.update(place)
    return rows, without_area


def _classes(
    sums: ClassSums, confidence_K: np.ndarray, samples_K: np.ndarray
) -> dict[str, np.ndarray]:
    """What a row says of the classes that occur in it."""
    of_all = {
        "pixels": sums.pixels_K,
        "area_m2": sums.area_m2_K,
        "confidence": confidence_K,
        "samples": samples_K,
    }
    present = np.flatnonzero(sums.pixels_K)
    return {"class_id": present, **{name: of_K[present] for name, of_K in of_all.items()}}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any] | Lists]:
    """The table's columns, of rows as `_block_rows` gives them."""
    if not rows:
        return {name: [] for name in UNIT.names}
    plain = {name: [row[name] for row in rows] for name in UNIT.names if name in rows[0]}
    lengths = [len(row["classes"]["class_id"]) for row in rows]
    fields = {
        name: np.concatenate([row["classes"][name] for row in rows]) for name in rows[0]["classes"]
    }
    nowhere = np.repeat([row["crs"] is None for row in rows], lengths)
    unseen = fields["samples"] == 0
    mean = fields["confidence"] / np.where(unseen, 1, fields["samples"]) / CONFIDENCE_SCALE
    fields["area_m2"] = np.ma.masked_array(fields["area_m2"], nowhere)
    fields["mean_confidence"] = np.ma.masked_array(mean, unseen)
    lists = Lists(lengths, fields)
    return {**plain, "class_pixels": lists, "class_confidence": lists}


def mean_confidence(confidence: int, samples: int) -> float | None:
    """None where no sampled pixel has the class."""
    return float(confidence / samples / CONFIDENCE_SCALE) if samples else None


def places(scene: Scene, rects: list[Rect]) -> list[dict[str, Any]]:
    """The columns geometry and bbox of rectangles of a scene; null without a CRS."""
    if scene.crs is None:
        return [{"geometry": None, "bbox": None} for _ in rects]
    return [
        {"geometry": found and found.wkb, "bbox": found and _bbox_struct(found.bbox)}
        for found in footprints(scene.crs, scene.transform, rects)
    ]


def _bbox_struct(bbox: tuple[float, float, float, float]) -> dict[str, float]:
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), bbox, strict=True))


def _areas(scene: Scene, core: Rect) -> Callable[[Rect], AreaLines | None]:
    """The areas of the cells of rects inside `core`; None without a CRS."""
    if scene.crs is None:
        return lambda _: None
    return _cell_areas(scene.crs, scene.transform, scene.width, scene.height).over(core)


@functools.lru_cache(maxsize=64)
def _cell_areas(crs: str, transform: Affine6, width: int, height: int) -> CellAreas:
    return CellAreas(crs, transform, width, height)

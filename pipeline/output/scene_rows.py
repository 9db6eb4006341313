"""The rows of a scene in `scenes` and `statistics`, summed from its mask tiles.

Sums are made in the order of the tiles in the scene, so that neither units nor their order matter.
Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.output.mask_rows import mean_confidence, place_columns
from pipeline.output.schemas import SCENES
from pipeline.output.tiles import Tile
from pipeline.scene import Scene


def scene_row(scene: Scene, status: str, tiles: Sequence[Tile]) -> dict[str, Any]:
    """The row of `scenes` of a planned scene."""
    return {
        "scene_id": scene.scene_id,
        "url": scene.url,
        "width": scene.width,
        "height": scene.height,
        "bands": scene.bands,
        "dtype": scene.dtype,
        "crs": scene.crs,
        "transform": scene.transform,
        "datetime": scene.datetime,
        "valid_pixels": sum(tile.valid_pixels for tile in tiles),
        "status": status,
        **place_columns(scene, [scene.rect])[0],
    }


def bare_row(scene_id: str, url: str) -> dict[str, Any]:
    """The row of `scenes` of an input whose header could not be read, or whose row could not be
    made."""
    row: dict[str, Any] = dict.fromkeys(SCENES.names)
    return {**row, "scene_id": scene_id, "url": url, "status": "quarantined"}


def statistics_rows(
    scene: Scene, class_names: Sequence[str], tiles: Sequence[Tile]
) -> Iterator[dict[str, Any]]:
    """One row per class of a scene, by class; tiles: row by row."""
    valid_pixels = sum(tile.valid_pixels for tile in tiles)
    for class_id, total in sorted(_sums_by_class(scene, tiles).items()):
        yield {
            "scene_id": scene.scene_id,
            "class_id": class_id,
            "class_name": class_names[class_id],
            "pixels": total["pixels"],
            "fraction": total["pixels"] / valid_pixels,
            "area_m2": total["area_m2"] if scene.crs else None,
            "mean_confidence": mean_confidence(total["confidence"], total["samples"]),
        }


def _sums_by_class(scene: Scene, tiles: Sequence[Tile]) -> dict[int, dict[str, Any]]:
    sums: dict[int, dict[str, Any]] = {}
    for tile in tiles:
        for pixels, confidence in zip(tile.class_pixels, tile.class_confidence, strict=True):
            total = sums.setdefault(
                pixels["class_id"],
                {"pixels": 0, "area_m2": 0.0, "confidence": 0, "samples": 0},
            )
            total["pixels"] += pixels["pixels"]
            total["confidence"] += confidence["confidence"]
            total["samples"] += confidence["samples"]
            if scene.crs:
                total["area_m2"] += pixels["area_m2"]
    return sums

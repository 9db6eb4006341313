"""A shard all of whose units have an outcome: its unit files to its tables, then its commit.

Can be repeated from any point: the same rows go under the same names. Every unit file is read
once, and masks wait for their place on local disk: however units and places lie to each other,
memory holds a unit and a row group of masks.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from pipeline.failure import Failure
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, table_path, unit_path
from pipeline.output.outcomes import failures_in, from_unit_file, outcome_of, statuses
from pipeline.output.parquet import Writer, write_table
from pipeline.output.replacement import supersede
from pipeline.output.schemas import MASKS, QUARANTINE, SCENES, SHARD_TABLES, STATISTICS
from pipeline.output.shard import Shard
from pipeline.output.spool import Spool
from pipeline.output.tables import table_of
from pipeline.output.unit_file import mean_confidence, places
from pipeline.scene import Scene
from pipeline.settings import ROW_GROUP_ROWS
from pipeline.unit import UnitOutcome

_KEYS = ["scene_id", "tile_row", "tile_col", "valid_pixels", "class_pixels", "class_confidence"]


def publish(output: Output, shard: Shard) -> None:
    """Writes the shard's tables, commits it, and empties its work folder.

    Not for two shards at once that both take old rows out of tables. Raises UnfinishedError where
    the disk that masks are put in order on is full.
    """
    # Where there is a commit, who made it has ended before it cleaned.
    if not output.store.exists(_commit_path(shard.shard_id)):
        with Spool(output.store.scratch) as spool:
            _publish(output, shard, spool)
    clean(output, shard.shard_id)


def sweep(output: Output, shard: Shard) -> None:
    """Deletes what a publication of the shard that was killed has left beside its files; and beside
    those of published shards that it takes old rows out of: others may just be published."""
    earlier = set(chain.from_iterable(shard.retries.values()))
    ids = {shard.shard_id, *(earlier & output.committed())}
    paths = [table_path(table, shard_id) for table in SHARD_TABLES for shard_id in sorted(ids)]
    for path in (*paths, _commit_path(shard.shard_id)):
        output.store.sweep(path)


def _publish(output: Output, shard: Shard, spool: Spool) -> None:
    outcomes = [outcome_of(output, unit) for unit in shard.units]
    failures = [r.failure for r in shard.rejected]
    failures += [failure for outcome in outcomes for failure in failures_in(outcome, shard)]
    tiles = _tiles(output, shard, spool)
    by_scene: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for tile in tiles:
        by_scene[tile["scene_id"]].append(tile)
    for rows in by_scene.values():
        rows.sort(key=lambda tile: (tile["tile_row"], tile["tile_col"]))

    status_of = statuses(shard, failures)
    scenes = [_scene_row(s, status_of[s.scene_id], by_scene[s.scene_id]) for s in shard.scenes]
    scenes += [_rejected_row(r.failure) for r in shard.rejected]
    statistics = [row for s in shard.scenes for row in _statistics(output, s, by_scene[s.scene_id])]
    supersede(output, shard)  # from here on nothing is missing for this shard to be published
    _write_masks(output, shard, tiles, spool)
    for name, rows, schema in (
        ("statistics", statistics, STATISTICS),
        ("scenes", scenes, SCENES),
        ("quarantine", [f.to_json() for f in failures], QUARANTINE),
    ):
        with output.store.writing(table_path(name, shard.shard_id)) as file:
            write_table(file, table_of(rows, schema))
    output.commit(commit_of(shard, failures, outcomes))


def check_published(output: Output) -> None:
    """Raises UsageError where a table of a committed shard is gone: its unit files are, too."""
    committed = sorted(output.committed())
    gone = []
    for table in SHARD_TABLES:
        there = set(output.store.list(table))
        gone += [(table, shard) for shard in committed if f"{shard}.parquet" not in there]
    if gone:
        table, shard = gone[0]
        raise UsageError(
            f"{output.store.root}: {len(gone)} of the published tables gone, the first"
            f" {table_path(table, shard)}; put them back, or delete the commits of their shards"
            f" (commits/{shard}.json): then the same command computes these again"
        )


def clean(output: Output, shard_id: str) -> None:
    """Empties the work folder of a committed shard."""
    output.store.delete_folder(f"work/{shard_id}")


def _commit_path(shard_id: str) -> str:
    return f"commits/{shard_id}.json"


def commit_of(shard: Shard, failures: Sequence[Failure], outcomes: Iterable[UnitOutcome]) -> Commit:
    without_area: Counter[str] = Counter()
    for outcome in outcomes:
        without_area.update(outcome.pixels_without_area)
    return Commit(shard.shard_id, len(shard.units), shard.pixels, tuple(failures), without_area)


def _tiles(output: Output, shard: Shard, spool: Spool) -> list[dict[str, Any]]:
    """Every mask tile of the shard, in the order of the table; its mask lies in the spool."""
    tiles = []
    for unit in shard.units:
        table = from_unit_file(output, unit_path(unit), pq.read_table)
        masks, rest = table["mask"], table.drop_columns(["mask"])
        for index, row in enumerate(rest.select([*_KEYS, "bbox"]).to_pylist()):
            if row["scene_id"] not in shard.scene_ids:
                continue  # planned again meanwhile
            spooled = spool.put(masks[index].as_buffer())
            tiles.append({**row, "rest": rest, "index": index, "spooled": spooled})
    order = hilbert(np.array([_centre(tile["bbox"]) for tile in tiles]).reshape(-1, 2))
    for tile, position in zip(tiles, order, strict=True):
        tile["order"] = (int(position), tile["scene_id"], tile["tile_row"], tile["tile_col"])
    return sorted(tiles, key=lambda tile: tile["order"])


def _centre(bbox: dict[str, float] | None) -> tuple[float, float]:
    if bbox is None:
        return (math.nan, math.nan)
    return ((bbox["xmin"] + bbox["xmax"]) / 2, (bbox["ymin"] + bbox["ymax"]) / 2)


def hilbert(lonlat: np.ndarray) -> np.ndarray:
    """Position of each (lon, lat) in degrees along a Hilbert curve over the world, int64.

    lonlat: float64 (n, 2); a place without coordinates comes first, at -1. The classic bitwise
    walk, 16 bits a direction (https://en.wikipedia.org/wiki/Hilbert_curve).
    """
    known = np.isfinite(lonlat).all(axis=1)
    side = 1 << 16
    span = np.array([[360.0, 180.0]])
    cells = ((np.where(known[:, None], lonlat, 0.0) + span / 2) / span * side).astype(np.int64)
    x, y = np.clip(cells, 0, side - 1).T
    position = np.zeros(len(lonlat), np.int64)
    level = side >> 1
    while level:
        right, upper = (x & level) > 0, (y & level) > 0
        position += level * level * ((3 * right) ^ upper)
        flip = ~upper & right
        x, y = np.where(flip, side - 1 - x, x), np.where(flip, side - 1 - y, y)
        x, y = np.where(~upper, y, x), np.where(~upper, x, y)
        level >>= 1
    return np.where(known, position, -1)


def _write_masks(output: Output, shard: Shard, tiles: list[dict[str, Any]], spool: Spool) -> None:
    with output.store.writing(table_path("masks", shard.shard_id)) as file:
        writer = Writer(file, MASKS)
        if not tiles:
            writer.write(MASKS.empty_table())
        for start in range(0, len(tiles), ROW_GROUP_ROWS):
            writer.write(_row_group(tiles[start : start + ROW_GROUP_ROWS], spool))
        writer.close()


def _row_group(tiles: list[dict[str, Any]], spool: Spool) -> pa.Table:
    rest = pa.concat_tables([tile["rest"].slice(tile["index"], 1) for tile in tiles])
    masks = pa.array([spool.get(tile["spooled"]) for tile in tiles], MASKS.field("mask").type)
    return rest.append_column(MASKS.field("mask"), masks).select(MASKS.names).combine_chunks()


def _scene_row(scene: Scene, status: str, tiles: list[dict[str, Any]]) -> dict[str, Any]:
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
        "valid_pixels": sum(tile["valid_pixels"] for tile in tiles),
        "status": status,
        **places(scene, [scene.rect])[0],
    }


def _rejected_row(failure: Failure) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SCENES.names)
    return {**row, "scene_id": failure.scene_id, "url": failure.url, "status": "quarantined"}


def _statistics(
    output: Output, scene: Scene, tiles: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One row per class of a scene, summed over its mask tiles in their order."""
    valid = sum(tile["valid_pixels"] for tile in tiles)
    classes: dict[int, dict[str, Any]] = {}
    for tile in tiles:
        for pixels, sums in zip(tile["class_pixels"], tile["class_confidence"], strict=True):
            total = classes.setdefault(
                pixels["class_id"],
                {"pixels": 0, "area_m2": 0.0, "confidence": 0, "samples": 0},
            )
            total["pixels"] += pixels["pixels"]
            total["confidence"] += sums["confidence"]
            total["samples"] += sums["samples"]
            if scene.crs:
                total["area_m2"] += pixels["area_m2"]
    for class_id, total in sorted(classes.items()):
        yield {
            "scene_id": scene.scene_id,
            "class_id": class_id,
            "class_name": output.job.class_names[class_id],
            "pixels": total["pixels"],
            "fraction": total["pixels"] / valid,
            "area_m2": total["area_m2"] if scene.crs else None,
            "mean_confidence": mean_confidence(total["confidence"], total["samples"]),
        }

"""The tables `scenes` and `statistics` of a shard. A scene whose rows cannot be made fails here, in
stage `publish`; the others have theirs.

Knows no files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.failure import Failure
from pipeline.output.outcomes import statuses
from pipeline.output.scene_rows import bare_row, scene_row, statistics_rows
from pipeline.output.schemas import SCENES, STATISTICS
from pipeline.output.shard import Shard
from pipeline.output.tables import table_of
from pipeline.output.tiles import Tile
from pipeline.scene import Scene
from pipeline.verdict import Foreign, attempt, insist

Row = dict[str, Any]


@dataclass(frozen=True)
class SceneTables:
    """The rows of a shard's inputs."""

    scenes: pa.Table
    statistics: pa.Table
    failures: tuple[Failure, ...] = ()
    """Blocks of scenes whose rows could not be made, unless they had failed before."""


@dataclass(frozen=True)
class _Contents:
    """What the rows are made from."""

    shard: Shard
    tiles_of: Mapping[str, Sequence[Tile]]
    """scene_id -> the scene's tiles, row by row."""
    class_names: Sequence[str]

    def rows_of(self, scene: Scene, status: str) -> tuple[Row, list[Row]]:
        """The scene's row of `scenes`, and those of `statistics`."""
        tiles = self.tiles_of[scene.scene_id]
        return scene_row(scene, status, tiles), [*statistics_rows(scene, self.class_names, tiles)]

    def tables(self, failures: Sequence[Failure], bare: Collection[str]) -> SceneTables:
        """The tables. bare: scene_ids of scenes of which no more than the name is written."""
        status_of = statuses(self.shard, failures)
        scenes: list[Row] = []
        statistics: list[Row] = []
        for scene in self.shard.scenes:
            if scene.scene_id in bare:
                scenes.append(bare_row(scene.scene_id, scene.url))
                continue
            row, own_statistics = self.rows_of(scene, status_of[scene.scene_id])
            scenes.append(row)
            statistics += own_statistics
        rejected = (rejected.failure for rejected in self.shard.rejected)
        scenes += [bare_row(failure.scene_id, failure.url) for failure in rejected]
        return SceneTables(table_of(scenes, SCENES), table_of(statistics, STATISTICS))

    def check(self, scene: Scene) -> None:
        """Raises what making the scene's rows raises."""
        row, statistics = self.rows_of(scene, "done")
        table_of([row], SCENES)
        table_of(statistics, STATISTICS)


def scene_tables(
    shard: Shard, failures: Sequence[Failure], tiles: Iterable[Tile], class_names: Sequence[str]
) -> SceneTables:
    """The tables of the shard's inputs. failures: of its headers and blocks, so far.

    Raises UnfinishedError if no tables can be made, whatever the scenes.
    """
    contents = _Contents(shard, _by_scene(tiles), class_names)
    tables = attempt(partial(contents.tables, failures, ()))
    if isinstance(tables, SceneTables):
        return tables
    errors = {}
    for scene in shard.scenes:
        error = attempt(partial(contents.check, scene))
        if isinstance(error, Foreign):
            errors[scene.scene_id] = error
    failed = {(failure.scene_id, failure.window) for failure in failures}
    new = tuple(
        errors[block.scene.scene_id].failure(block, "publish")
        for unit in shard.units
        for block in unit.blocks
        if block.scene.scene_id in errors and (block.scene.scene_id, str(block.core)) not in failed
    )
    what = f"the rows of shard {shard.shard_id} cannot be made"
    tables = insist(what, partial(contents.tables, (*failures, *new), errors.keys()))
    return replace(tables, failures=new)


def _by_scene(tiles: Iterable[Tile]) -> Mapping[str, list[Tile]]:
    """Each scene's tiles, row by row."""
    tiles_of: dict[str, list[Tile]] = defaultdict(list)
    for tile in tiles:
        tiles_of[tile.scene_id].append(tile)
    for scene_tiles in tiles_of.values():
        scene_tiles.sort(key=lambda tile: (tile.tile_row, tile.tile_col))
    return tiles_of

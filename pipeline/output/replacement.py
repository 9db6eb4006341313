"""Inputs that are planned again: which scenes still count in which shard, and their old rows.

An input that is retried is in a later shard, whose `retries` name the shards of its earlier tries.
From then on it no longer counts in those; the ones that are still open are published without it.
Its published rows stay until the later shard is complete; then they are deleted, and only then do
the new ones appear. So no table ever shows a scene twice, and publishing the later shard once more
completes whatever was interrupted. `scenes` loses its rows first and `masks` last: a scene in
`scenes` has its tiles.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.layout import Output, table_path
from pipeline.output.mask_table import damage_as_usage_error
from pipeline.output.parquet import Writer
from pipeline.output.schemas import SHARD_TABLES
from pipeline.output.shard import Head, Shard
from pipeline.settings import ROW_GROUP_ROWS
from pipeline.unit import Unit

_DELETION_ORDER = ("scenes", "statistics", "quarantine", "masks")
"""The order in which tables lose rows. A reader that opens `masks` and then finds a scene's row in
`scenes` (`SceneMask`) has the scene's tiles."""


def current_shards(shards: Collection[Shard], committed: Collection[str]) -> list[Shard]:
    """The shards, each without the scenes that a later one has planned again."""
    replaced = replaced_scenes(shards)
    return [without_scenes(shard, replaced.get(shard.shard_id, ()), committed) for shard in shards]


def replaced_scenes(shards: Iterable[Shard | Head]) -> dict[str, set[str]]:
    """shard_id -> the scene_ids that a later shard has planned again."""
    replaced: dict[str, set[str]] = defaultdict(set)
    for shard in shards:
        for scene_id, earlier in shard.retries.items():
            for shard_id in earlier:
                replaced[shard_id].add(scene_id)
    return dict(replaced)


def without_scenes(shard: Shard, scene_ids: Collection[str], committed: Collection[str]) -> Shard:
    """The shard without these scenes.

    A unit of an open shard stays as it is or goes as a whole, because its file is named after what
    it consists of.
    """
    if not scene_ids:
        return shard
    units = []
    for unit in shard.units:
        blocks = tuple(block for block in unit.blocks if block.scene.scene_id not in scene_ids)
        if blocks:
            units.append(Unit(unit.shard, blocks) if shard.shard_id in committed else unit)
    return replace(
        shard,
        scenes=tuple(scene for scene in shard.scenes if scene.scene_id not in scene_ids),
        units=tuple(units),
        rejected=tuple(r for r in shard.rejected if r.failure.scene_id not in scene_ids),
    )


def with_retries(
    shards: Iterable[Shard], retries: Mapping[str, tuple[str, ...]]
) -> Iterator[Shard]:
    """The shards, each with those of the retries (scene_id -> earlier shards) that are its own."""
    for shard in shards:
        scene_ids = shard.scene_ids & retries.keys()
        own = {scene_id: earlier for scene_id, earlier in retries.items() if scene_id in scene_ids}
        yield replace(shard, retries=own)


def delete_replaced_rows(output: Output, shard: Shard) -> None:
    """Delete the rows of this shard's retried inputs from the published tables of earlier shards.

    Each file is replaced as a whole, and only if it holds such rows, so this can be repeated from
    any point. An earlier shard that is still open will be published without them.
    """
    if not shard.retries:
        return
    committed = output.committed()
    scenes_of: dict[str, list[str]] = defaultdict(list)
    # What has been planned yet again since then is a later shard's to replace.
    for scene_id in shard.scene_ids & shard.retries.keys():
        for shard_id in committed.intersection(shard.retries[scene_id]):
            scenes_of[shard_id].append(scene_id)
    for shard_id, scene_ids in scenes_of.items():
        for table in sorted(SHARD_TABLES, key=_DELETION_ORDER.index):
            _delete_rows(output, table, shard_id, pa.array(scene_ids))


def _delete_rows(output: Output, table: str, shard_id: str, scene_ids: pa.Array) -> None:
    """Raises UsageError if the table is damaged."""
    path, schema = table_path(table, shard_id), SHARD_TABLES[table]
    with damage_as_usage_error(output, table, shard_id), output.store.open(path) as file:
        ids = pq.read_table(file, columns=["scene_id"])["scene_id"]
        if not pc.any(pc.is_in(ids, scene_ids)).as_py():
            return
        with output.store.writing(path) as target:
            writer = Writer(target, schema)
            if pc.all(pc.is_in(ids, scene_ids)).as_py():
                writer.write(schema.empty_table())
            for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP_ROWS):
                rows = pa.Table.from_batches([batch])
                rows = rows.filter(pc.invert(pc.is_in(rows["scene_id"], scene_ids)))
                if rows.num_rows:
                    writer.write(rows)
            writer.close()

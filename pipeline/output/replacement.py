"""Inputs that are planned once more: which scenes of a shard still count, and their old rows.

An input that is tried again stands in a later shard, whose record names the shards of its earlier
tries: `retries`. From then on those count without it; if they are still open, they are published
without it. Rows of it that are published already stay until the later shard is complete; then they
are taken out, and only then do the new ones appear. So no table ever shows a scene twice, and
whatever is cut short is done again by the same publishing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.layout import Output, table_path
from pipeline.output.parquet import Writer
from pipeline.output.schemas import SHARD_TABLES
from pipeline.output.shard import Head, Shard
from pipeline.settings import ROW_GROUP_ROWS
from pipeline.unit import Unit

T = TypeVar("T")


def standing(shards: Collection[Shard], committed: Collection[str]) -> list[Shard]:
    """The shards, each without the scenes that a later one has planned again."""
    gone = planned_again(shards)
    return [without(shard, gone.get(shard.shard_id, ()), committed) for shard in shards]


def planned_again(shards: Iterable[Shard | Head]) -> dict[str, set[str]]:
    """By shard, the scene_ids that a later one has planned again."""
    gone: dict[str, set[str]] = defaultdict(set)
    for shard in shards:
        for scene_id, earlier in shard.retries.items():
            for shard_id in earlier:
                gone[shard_id].add(scene_id)
    return dict(gone)


def without(shard: Shard, gone: Collection[str], committed: Collection[str]) -> Shard:
    """The shard without these scenes. Units of an open one stay as they are, for their files are
    named by what they consist of, or go as a whole."""
    if not gone:
        return shard
    units = []
    for unit in shard.units:
        kept = tuple(block for block in unit.blocks if block.scene.scene_id not in gone)
        if kept:
            units.append(Unit(unit.shard, kept) if shard.shard_id in committed else unit)
    return replace(
        shard,
        scenes=tuple(scene for scene in shard.scenes if scene.scene_id not in gone),
        units=tuple(units),
        rejected=tuple(r for r in shard.rejected if r.failure.scene_id not in gone),
    )


def retrying(shards: Iterable[Shard], retries: Mapping[str, tuple[str, ...]]) -> Iterator[Shard]:
    """The shards, each with what `retries` says of its own inputs."""
    for shard in shards:
        here = {scene_id: retries[scene_id] for scene_id in shard.scene_ids if scene_id in retries}
        yield replace(shard, retries=here)


def supersede(output: Output, shard: Shard) -> None:
    """Takes what this shard has tried again out of the tables of the shards it stood in.

    Each file is replaced whole; those that hold nothing of it are left alone, so this can be
    repeated from any point. An earlier shard that is still open will be published without it.
    """
    if not shard.retries:
        return
    committed = output.committed()
    by_shard: dict[str, list[str]] = defaultdict(list)
    # What has been planned once more since is for that shard to replace.
    for scene_id in shard.scene_ids & shard.retries.keys():
        for shard_id in committed.intersection(shard.retries[scene_id]):
            by_shard[shard_id].append(scene_id)
    for shard_id, scene_ids in by_shard.items():
        for table in SHARD_TABLES:
            _take_out(output, table, table_path(table, shard_id), pa.array(scene_ids))


def _take_out(output: Output, table: str, path: str, scene_ids: pa.Array) -> None:
    with output.store.open(path) as file:
        ids = pq.read_table(file, columns=["scene_id"])["scene_id"]
        if not pc.any(pc.is_in(ids, scene_ids)).as_py():
            return
        schema = SHARD_TABLES[table]
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

"""Inputs that are planned once more: which scenes of a shard still count, and their old rows.

An input that is tried again stands in a later shard, whose record names the shards of its earlier
tries: `retries`. From then on those count without it; if they are still open, they are published
without it. Rows of it that are published already stay until the later shard is complete; then they
are taken out, and only then do the new ones appear. So no table ever shows a scene twice, and
whatever is cut short is done again by the same publishing.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import UnfinishedError
from pipeline.output.layout import Output, table_path, unit_path
from pipeline.output.shard import Head, Shard
from pipeline.output.tables import ROW_GROUP_ROWS, SHARD_TABLES, Writer, read_outcome
from pipeline.receipt import Failure
from pipeline.scene import Unit

T = TypeVar("T")

_DAMAGE = (OSError, ValueError, KeyError, TypeError)
"""What pyarrow, and who looks for a unit's outcome, say of a file that is no unit's."""
_FOOTER_BYTES = 1 << 16
"""A unit's footer has 7 kB, and 2 kB more for each 256 mask tiles or a few failures."""


@dataclass(frozen=True)
class Outcomes:
    """What has come of the planned inputs; planned = done + partial + quarantined in the end."""

    planned: int
    done: int
    partial: int
    quarantined: int
    failures: tuple[Failure, ...]
    """The rows of `quarantine`, but those of inputs that are being tried again."""
    pixels_without_area: int

    @property
    def total(self) -> int:
        """Inputs that have an outcome."""
        return self.done + self.partial + self.quarantined


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


def outcome_of(output: Output, unit: Unit) -> dict[str, Any]:
    """From the unit's file, in one request where its footer is not longer than most."""
    path = unit_path(unit)
    with suppress(*_DAMAGE):
        return read_outcome(io.BytesIO(output.store.tail(path, _FOOTER_BYTES)))
    return from_unit_file(output, path, read_outcome)


def from_unit_file(output: Output, path: str, read: Callable[[BinaryIO], T]) -> T:
    """What `read` makes of a unit's file. Raises UnfinishedError where the file is damaged."""
    try:
        with output.store.open(path) as file:
            return read(file)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not pyarrow's
    # A task that Ray repeats may have replaced it between two ranges of it: whole, it is one file.
    data = output.store.read(path)
    try:
        return read(io.BytesIO(data))
    except _DAMAGE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise UnfinishedError(
            f"{output.store.root}/{path}: is damaged ({len(data)} bytes: {why}); delete it, and the"
            " same command computes its unit again"
        ) from error


def failures_in(outcome: dict[str, Any], shard: Shard) -> list[Failure]:
    """Of a unit's outcome or a commit, those of inputs that still count in this shard."""
    ids = shard.scene_ids
    return [Failure(**row) for row in outcome["failures"] if row["scene_id"] in ids]


def statuses(shard: Shard, failures: Iterable[Failure]) -> dict[str, str]:
    """Status of each input: done, partial where some of its blocks failed, else quarantined."""
    failures_of = Counter(failure.scene_id for failure in failures)
    blocks_of = Counter(block.scene.scene_id for unit in shard.units for block in unit.blocks)
    found = {rejected.failure.scene_id: "quarantined" for rejected in shard.rejected}
    for scene in shard.scenes:
        count = failures_of[scene.scene_id]
        partly = "partial" if count < blocks_of[scene.scene_id] else "quarantined"
        found[scene.scene_id] = partly if count else "done"
    return found


def outcomes(shards: Collection[Shard], records: Iterable[dict[str, Any]]) -> Outcomes:
    """What commits say of `standing` shards."""
    published = {record["shard"]: record for record in records}
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    without_area = 0
    for shard in shards:
        record = published.get(shard.shard_id)
        if record is None:
            continue
        here = failures_in(record, shard)
        counts.update(statuses(shard, here).values())
        failures += here
        missing = record["pixels_without_area"]
        without_area += sum(missing.get(scene.scene_id, 0) for scene in shard.scenes)
    return Outcomes(
        planned=sum(len(shard.scene_ids) for shard in shards),
        done=counts["done"],
        partial=counts["partial"],
        quarantined=counts["quarantined"],
        failures=tuple(failures),
        pixels_without_area=without_area,
    )


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

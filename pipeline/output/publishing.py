"""Publishes a shard all of whose units have an outcome: unit files to tables, then a commit.

Can be repeated from any point: the same rows go under the same names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from pipeline.errors import UsageError
from pipeline.failure import Failure
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, commit_path, table_path
from pipeline.output.outcomes import failures_in
from pipeline.output.parquet import write_table
from pipeline.output.replacement import delete_replaced_rows
from pipeline.output.scene_tables import scene_tables
from pipeline.output.schemas import QUARANTINE, SHARD_TABLES
from pipeline.output.shard import Shard
from pipeline.output.spool import Spool
from pipeline.output.tables import table_of
from pipeline.output.tiles import ShardUnits, read_units, write_masks
from pipeline.unit import UnitOutcome


@dataclass(frozen=True)
class Publication:
    """What became of publishing a shard."""

    failures: tuple[Failure, ...] = ()
    """The blocks of scenes whose rows could not be made."""
    damages: Mapping[str, str] = field(default_factory=dict)
    """unit_id -> what is wrong with the unit's file. If there is one, nothing was written."""


def publish(output: Output, shard: Shard) -> Publication:
    """Write the shard's tables, commit it, and empty its work folder.

    Never call it at once for two shards that both replace rows of others. Raises UnfinishedError if
    the disk on which masks are put in order is full.
    """
    publication = Publication()
    # A commit means that whoever made it was killed before it emptied the folder.
    if not _is_committed(output, shard):
        with Spool(output.store.scratch) as spool:
            units = read_units(output, shard, spool)
            if not units.damages:
                publication = _write_and_commit(output, shard, units, spool)
            elif not _is_committed(output, shard):  # another process, which deleted these files
                return Publication(damages=units.damages)
    empty_work_folder(output, shard.shard_id)
    return publication


def _is_committed(output: Output, shard: Shard) -> bool:
    return output.store.exists(commit_path(shard.shard_id))


def _write_and_commit(output: Output, shard: Shard, units: ShardUnits, spool: Spool) -> Publication:
    failures = [rejected.failure for rejected in shard.rejected]
    failures += [failure for outcome in units.outcomes for failure in failures_in(outcome, shard)]
    tables = scene_tables(shard, failures, units.tiles, output.job.class_names)
    failures += tables.failures
    left_out = {failure.scene_id for failure in tables.failures}
    tiles = [tile for tile in units.tiles if tile.scene_id not in left_out]
    # Everything that this shard's tables need is in memory or in the spool: old rows may go.
    delete_replaced_rows(output, shard)
    write_masks(output, shard.shard_id, tiles, spool)
    for name, table in (
        ("statistics", tables.statistics),
        ("scenes", tables.scenes),
        ("quarantine", table_of([failure.to_json() for failure in failures], QUARANTINE)),
    ):
        with output.store.writing(table_path(name, shard.shard_id)) as file:
            write_table(file, table)
    output.commit(commit_of(shard, failures, units.outcomes, left_out))
    return Publication(tables.failures)


def commit_of(
    shard: Shard,
    failures: Sequence[Failure],
    outcomes: Iterable[UnitOutcome],
    left_out: Collection[str] = (),
) -> Commit:
    """The record of a published shard. left_out: scene_ids of scenes without masks."""
    without_area: Counter[str] = Counter()
    for outcome in outcomes:
        without_area.update(outcome.pixels_without_area)
    for scene_id in left_out:
        without_area.pop(scene_id, None)
    return Commit(
        shard_id=shard.shard_id,
        units=len(shard.units),
        pixels=shard.pixels,
        failures=tuple(failures),
        pixels_without_area=dict(without_area),  # asdict cannot copy a Counter
    )


def empty_work_folder(output: Output, shard_id: str) -> None:
    """Delete the unit files of a committed shard."""
    output.store.delete_folder(f"work/{shard_id}")


def delete_leftovers(output: Output, shard: Shard) -> None:
    """Delete what killed writers of the shard left beside its files, and beside those of the
    published shards whose rows it replaces; others may just be published."""
    earlier = set(chain.from_iterable(shard.retries.values()))
    ids = {shard.shard_id, *(earlier & output.committed())}
    paths = [table_path(table, shard_id) for table in SHARD_TABLES for shard_id in sorted(ids)]
    for path in (*paths, commit_path(shard.shard_id)):
        output.store.sweep(path)


def check_published(output: Output) -> None:
    """Raises UsageError if a table of a committed shard is gone, for its unit files are, too."""
    committed = sorted(output.committed())
    gone = []
    for table in SHARD_TABLES:
        names = set(output.store.list(table))
        gone += [(table, shard_id) for shard_id in committed if f"{shard_id}.parquet" not in names]
    if gone:
        table, shard_id = gone[0]
        raise UsageError(
            f"{output.store.root}: published tables are gone ({len(gone)}, the first is"
            f" {table_path(table, shard_id)}); put them back, or delete the commits of their shards"
            f" (commits/{shard_id}.json): then the same command computes these again"
        )

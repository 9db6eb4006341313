"""Publishes a shard all of whose units have an outcome: unit files to tables, then a commit.

Can be repeated from any point: the same rows go under the same names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from pipeline.errors import UsageError
from pipeline.failure import Failure
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, commit_path, table_path
from pipeline.output.outcomes import failures_in, outcome_of, statuses
from pipeline.output.parquet import write_table
from pipeline.output.replacement import delete_replaced_rows
from pipeline.output.scene_rows import rejected_row, scene_row, statistics_rows
from pipeline.output.schemas import QUARANTINE, SCENES, SHARD_TABLES, STATISTICS
from pipeline.output.shard import Shard
from pipeline.output.spool import Spool
from pipeline.output.tables import table_of
from pipeline.output.tiles import Tile, read_tiles, write_masks
from pipeline.unit import UnitOutcome


def publish(output: Output, shard: Shard) -> None:
    """Write the shard's tables, commit it, and empty its work folder.

    Never call it at once for two shards that both replace rows of others. Raises UnfinishedError if
    the disk on which masks are put in order is full.
    """
    # A commit means that whoever made it was killed before it emptied the folder.
    if not output.store.exists(commit_path(shard.shard_id)):
        with Spool(output.store.scratch) as spool:
            _write_and_commit(output, shard, spool)
    empty_work_folder(output, shard.shard_id)


def _write_and_commit(output: Output, shard: Shard, spool: Spool) -> None:
    outcomes = [outcome_of(output, unit) for unit in shard.units]
    failures = [rejected.failure for rejected in shard.rejected]
    failures += [failure for outcome in outcomes for failure in failures_in(outcome, shard)]
    status_of = statuses(shard, failures)
    tiles = read_tiles(output, shard, spool)
    tiles_of = _by_scene(tiles)

    names = output.job.class_names
    scenes = [scene_row(s, status_of[s.scene_id], tiles_of[s.scene_id]) for s in shard.scenes]
    scenes += [rejected_row(rejected.failure) for rejected in shard.rejected]
    statistics = [
        row for s in shard.scenes for row in statistics_rows(s, names, tiles_of[s.scene_id])
    ]
    # Everything that this shard's tables need is in memory or in the spool: old rows may go.
    delete_replaced_rows(output, shard)
    write_masks(output, shard.shard_id, tiles, spool)
    for name, rows, schema in (
        ("statistics", statistics, STATISTICS),
        ("scenes", scenes, SCENES),
        ("quarantine", [failure.to_json() for failure in failures], QUARANTINE),
    ):
        with output.store.writing(table_path(name, shard.shard_id)) as file:
            write_table(file, table_of(rows, schema))
    output.commit(commit_of(shard, failures, outcomes))


def _by_scene(tiles: Iterable[Tile]) -> dict[str, list[Tile]]:
    """Each scene's tiles, row by row."""
    tiles_of: dict[str, list[Tile]] = defaultdict(list)
    for tile in tiles:
        tiles_of[tile.scene_id].append(tile)
    for scene_tiles in tiles_of.values():
        scene_tiles.sort(key=lambda tile: (tile.tile_row, tile.tile_col))
    return tiles_of


def commit_of(shard: Shard, failures: Sequence[Failure], outcomes: Iterable[UnitOutcome]) -> Commit:
    """The record of a published shard."""
    without_area: Counter[str] = Counter()
    for outcome in outcomes:
        without_area.update(outcome.pixels_without_area)
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

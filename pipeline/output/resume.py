"""The state of an output when a run starts: its plan, its failures, and what is still open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import UnfinishedError
from pipeline.failure import Failure
from pipeline.output.layout import Output, UnitFiles
from pipeline.output.outcomes import failures_in, outcome_of
from pipeline.output.replacement import current_shards
from pipeline.output.shard import Shard
from pipeline.share import ALL_SHARDS, Share
from pipeline.storage.store import THREADS
from pipeline.unit import Unit


@dataclass
class OutputRecord:
    """The state of an output when a run starts."""

    shards: list[Shard]
    """The plan, as `current_shards` returns it."""
    failures: list[Failure]
    """Those in the plan (rejected inputs), in unit files that are not published, and in commits."""
    waiting: set[str]
    """scene_ids with blocks that have no outcome yet."""


def read_record(output: Output | None, share: Share = ALL_SHARDS) -> OutputRecord:
    """Read the whole plan, and the outcomes of the shards of a share; an empty record for None.

    Raises UnfinishedError if a unit's file is damaged, or gone since it was listed.
    """
    if output is None:
        return OutputRecord([], [], set())
    # Before the commits: a shard published meanwhile then counts as published, not as open.
    listings = {shard_id: output.unit_files(shard_id) for shard_id in output.shards_at_work()}
    commits = {commit.shard_id: commit for commit in output.commits()}
    record = OutputRecord(current_shards(list(output.shards()), commits.keys()), [], set())
    for shard in record.shards:
        if not in_share(shard, share):
            continue
        record.failures += (rejected.failure for rejected in shard.rejected)
        if shard.shard_id in commits:
            record.failures += failures_in(commits[shard.shard_id], shard)
            continue
        files = listings.get(shard.shard_id, UnitFiles(set(), set()))
        try:
            record.failures += unpublished_failures(output, shard, files)
        except FileNotFoundError as error:
            raise UnfinishedError(
                f"{output.store.root}: a run has published shard {shard.shard_id} meanwhile; ask"
                " again"
            ) from error
        for unit in shard.units:
            if unit.unit_id not in files.done:
                record.waiting |= {block.scene.scene_id for block in unit.blocks}
    return record


def unpublished_failures(
    output: Output, shard: Shard, files: UnitFiles, *, skip_unreadable: bool = False
) -> list[Failure]:
    """The failures in the unit files of an open shard; opens only the files that are marked.

    Raises UnfinishedError if one is damaged, FileNotFoundError if it is gone meanwhile, unless
    unreadable ones are to be skipped.
    """

    def failures_of(unit: Unit) -> list[Failure]:
        try:
            return failures_in(outcome_of(output, unit), shard)
        except (FileNotFoundError, UnfinishedError):
            if skip_unreadable:
                return []
            raise

    units = [unit for unit in shard.units if unit.unit_id in files.failed]
    with ThreadPoolExecutor(THREADS) as pool:
        return [failure for failures in pool.map(failures_of, units) for failure in failures]


def in_share(shard: Shard, share: Share) -> bool:
    """Whether a driver's share of the output includes the shard."""
    return share.takes(int(shard.shard_id), bool(shard.retries))

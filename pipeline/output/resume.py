"""The state of an output when a run starts: its plan, its failures, and what is still open."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline.errors import UnfinishedError
from pipeline.failure import Failure
from pipeline.output.layout import Output, UnitFiles
from pipeline.output.outcomes import DamagedUnitError, failures_in, outcome_of, warn_of_damage
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
    damaged: list[Unit] = field(default_factory=list)
    """Units whose files are damaged, as far as these were opened."""


def read_record(output: Output | None, share: Share = ALL_SHARDS) -> OutputRecord:
    """Read the whole plan, and the outcomes of the shards of a share; an empty record for None.

    Raises UnfinishedError if a unit's file is gone since it was listed, UsageError if a record is
    damaged.
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
            marked = read_marked(output, shard, files)
        except FileNotFoundError as error:
            raise UnfinishedError(
                f"{output.store.root}: a run has published shard {shard.shard_id} meanwhile; ask"
                " again"
            ) from error
        record.failures += marked.failures
        record.damaged += marked.damaged
        for unit in shard.units:
            if unit.unit_id not in files.done or unit in marked.damaged:
                record.waiting |= {block.scene.scene_id for block in unit.blocks}
    return record


@dataclass(frozen=True)
class MarkedUnits:
    """What is in the unit files of an open shard that are marked as containing failures."""

    failures: list[Failure]
    damaged: list[Unit]
    """The units whose files are damaged."""


def read_marked(
    output: Output, shard: Shard, files: UnitFiles, *, skip_gone: bool = False
) -> MarkedUnits:
    """Open the unit files of an open shard that are marked, and no others. The user is told of
    damaged ones.

    Raises FileNotFoundError for a file that is gone meanwhile, unless these are to be skipped.
    """

    def failures_of(unit: Unit) -> list[Failure] | None:
        """The failures in a unit's file; None if it is damaged."""
        try:
            return failures_in(outcome_of(output, unit), shard)
        except DamagedUnitError as error:
            warn_of_damage(output, unit, str(error))
            return None
        except FileNotFoundError:
            if skip_gone:
                return []
            raise

    units = [unit for unit in shard.units if unit.unit_id in files.failed]
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(zip(units, pool.map(failures_of, units), strict=True))
    return MarkedUnits(
        [failure for _, failures in read for failure in failures or ()],
        [unit for unit, failures in read if failures is None],
    )


def in_share(shard: Shard, share: Share) -> bool:
    """Whether a driver's share of the output includes the shard."""
    return share.takes(int(shard.shard_id), bool(shard.retries))

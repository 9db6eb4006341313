"""What an output holds when a run begins, and the failures that wait to be published."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import UnfinishedError
from pipeline.failure import Failure
from pipeline.output.layout import Output, UnitFiles
from pipeline.output.outcomes import failures_in, outcome_of
from pipeline.output.replacement import standing
from pipeline.output.shard import Shard
from pipeline.share import ALL_SHARDS, Share
from pipeline.storage.store import THREADS
from pipeline.unit import Unit


@dataclass
class Recorded:
    """What an output holds when a run begins."""

    shards: list[Shard]
    """As `standing` gives them."""
    failures: list[Failure]
    """Planned rejections, and those in unit files that wait to be published and in commits."""
    waiting: set[str]
    """scene_ids with blocks that have no outcome yet."""


def recorded(output: Output | None, share: Share = ALL_SHARDS) -> Recorded:
    """Nothing, where there is no output yet. share: whose shards' outcomes are looked at.

    Raises UnfinishedError where a unit's file is damaged, or gone since it was listed.
    """
    if output is None:
        return Recorded([], [], set())
    # Before the commits: what is published meanwhile is counted as such, not as open.
    at_work = {shard_id: output.waiting(shard_id) for shard_id in output.at_work()}
    commits = {commit.shard_id: commit for commit in output.commits()}
    found = Recorded(standing(list(output.shards()), commits.keys()), [], set())
    for shard in found.shards:
        if not is_of(share, shard):
            continue
        found.failures += (rejected.failure for rejected in shard.rejected)
        if shard.shard_id in commits:
            found.failures += failures_in(commits[shard.shard_id], shard)
            continue
        waiting = at_work.get(shard.shard_id, UnitFiles(set(), set()))
        try:
            found.failures += failures_waiting(output, shard, waiting)
        except FileNotFoundError as error:
            raise UnfinishedError(
                f"{output.store.root}: a run has published shard {shard.shard_id} meanwhile; ask"
                " again"
            ) from error
        for unit in shard.units:
            if unit.unit_id not in waiting.done:
                found.waiting |= {block.scene.scene_id for block in unit.blocks}
    return found


def failures_waiting(
    output: Output, shard: Shard, waiting: UnitFiles, *, forgiving: bool = False
) -> list[Failure]:
    """Those that wait to be published with an open shard. Only files that bear a mark are opened.

    Raises UnfinishedError where one is damaged, FileNotFoundError where it is gone meanwhile;
    forgiving: goes on without it.
    """

    def of(unit: Unit) -> list[Failure]:
        try:
            return failures_in(outcome_of(output, unit), shard)
        except (FileNotFoundError, UnfinishedError):
            if forgiving:
                return []
            raise

    units = [unit for unit in shard.units if unit.unit_id in waiting.failed]
    with ThreadPoolExecutor(THREADS) as pool:
        return [failure for failures in pool.map(of, units) for failure in failures]


def is_of(share: Share, shard: Shard) -> bool:
    return share.takes(int(shard.shard_id), bool(shard.retries))

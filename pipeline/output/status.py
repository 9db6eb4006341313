"""What an output says of itself.

Counts by the heads of the shards. A shard's whole record is read only where units of it wait to be
published, or some of its inputs are planned again.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.failure import Failure
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, UnitFiles
from pipeline.output.locks import drivers
from pipeline.output.outcomes import failures_in
from pipeline.output.replacement import planned_again, without
from pipeline.output.resume import failures_waiting
from pipeline.output.shard import Head, Shard
from pipeline.receipt import Status
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.storage.store import THREADS


@dataclass(frozen=True)
class _Part:
    """What one shard adds to the counts."""

    head: Head
    done_units: int = 0
    """With an outcome."""
    done_px: int = 0
    """Of these units, those in quarantine too."""
    failures: int = 0
    quarantined_px: int = 0


def status(output: str, access: Access = DEFAULT_ACCESS) -> Status:
    """What OUT's own records say. Raises UsageError where there is no output."""
    out = Output.open(output, access.impatient())
    # Who is at work has been so since before its run is there to be found.
    working, runs = drivers(out.store), out.runs()
    receipts = tuple(receipt for receipt in runs.values() if receipt is not None)
    parts, published = _parts(out)
    quarantined = sum(part.failures for part in published)
    pixels = sum(part.head.pixels for part in parts)
    done_px = sum(part.done_px for part in parts)
    quarantined_px = sum(part.quarantined_px for part in parts)
    return Status(
        output=out.store.root,
        units=sum(part.head.units for part in parts),
        units_done=sum(part.done_units for part in parts),
        shards=len(parts),
        shards_published=len(published),
        scenes=sum(part.head.inputs for part in parts),
        scenes_published=sum(part.head.inputs for part in published),
        quarantined=quarantined,
        quarantined_waiting=sum(part.failures for part in parts) - quarantined,
        megapixels=pixels / 1e6,
        megapixels_done=(done_px - quarantined_px) / 1e6,
        megapixels_quarantined=quarantined_px / 1e6,
        megapixels_open=(pixels - done_px) / 1e6,
        finished=bool(parts) and len(published) == len(parts),
        settings=out.job.to_json(),
        runs=receipts,
        runs_without_receipt=len(runs) - len(receipts),
        at_work=working,
        died=not working and bool(runs) and next(reversed(runs.values())) is None,
    )


def _parts(out: Output) -> tuple[list[_Part], list[_Part]]:
    """Of all shards; of these, the published ones."""
    # Before the commits: what is published meanwhile is counted as such, not as undone.
    shard_ids = out.at_work()
    with ThreadPoolExecutor(THREADS) as pool:
        at_work = dict(zip(shard_ids, pool.map(out.waiting, shard_ids), strict=True))
    commits = {commit.shard_id: commit for commit in out.commits()}
    heads = out.heads()
    gone = planned_again(heads)
    asked = gone.keys() | (at_work.keys() - commits.keys())
    shards = {
        shard.shard_id: without(shard, gone.get(shard.shard_id, ()), commits)
        for shard in out.planned([head.shard_id for head in heads if head.shard_id in asked])
    }
    parts = [
        _committed(head, commits[head.shard_id], shards.get(head.shard_id))
        if head.shard_id in commits
        else _open(out, head, shards.get(head.shard_id), at_work.get(head.shard_id))
        for head in heads
    ]
    return parts, [part for part in parts if part.head.shard_id in commits]


def _committed(head: Head, commit: Commit, shard: Shard | None) -> _Part:
    """shard: given where not all of its inputs count any more."""
    if shard is None:
        failures = list(commit.failures)
    else:
        head, failures = shard.head, failures_in(commit, shard)
    return _Part(head, head.units, head.pixels, len(failures), _pixels(failures))


def _open(out: Output, head: Head, shard: Shard | None, waiting: UnitFiles | None) -> _Part:
    """shard: given where something of it waits, or not all of its inputs count any more."""
    head = shard.head if shard else head
    if shard is None or waiting is None:
        return _Part(head, failures=head.rejected)
    units = [unit for unit in shard.units if unit.unit_id in waiting.done]
    # One that has been published meanwhile is gone; of a damaged one, whoever runs will say so.
    failures = failures_waiting(out, shard, waiting, forgiving=True)
    return _Part(
        head,
        done_units=len(units),
        done_px=sum(unit.pixels for unit in units),
        failures=head.rejected + len(failures),
        quarantined_px=_pixels(failures),
    )


def _pixels(failures: Iterable[Failure]) -> int:
    return sum(failure.pixels for failure in failures)

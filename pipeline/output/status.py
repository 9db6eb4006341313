"""The status of an output, from its own records: what is done, open, in quarantine, who is at work.

Counts by the heads of the shards. A shard's whole record is read only if units of it wait to be
published, or if some of its inputs are planned again.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.failure import Failure
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, UnitFiles
from pipeline.output.locks import active_drivers
from pipeline.output.outcomes import failures_in
from pipeline.output.replacement import replaced_scenes, without_scenes
from pipeline.output.resume import read_marked
from pipeline.output.shard import Head, Shard
from pipeline.receipt import Status
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.storage.store import THREADS


@dataclass(frozen=True)
class _Part:
    """One shard's part in the counts."""

    head: Head
    done_units: int = 0
    """The number of units with an outcome."""
    done_px: int = 0
    """The pixels of these units, quarantined ones included."""
    failures: int = 0
    """The number of rows of `quarantine`, published or not."""
    quarantined_px: int = 0


def status(output: str, access: Access = DEFAULT_ACCESS) -> Status:
    """The status of an output, from its own records. Raises UsageError if there is none."""
    out = Output.open(output, access.impatient())
    # In this order: a driver holds its lock before its run is on record.
    drivers, runs = active_drivers(out.store), out.runs()
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
        at_work=drivers,
        died=not drivers and bool(runs) and next(reversed(runs.values())) is None,
    )


def _parts(out: Output) -> tuple[list[_Part], list[_Part]]:
    """The parts of all shards, and those of the published ones."""
    # Before the commits: a shard published meanwhile then counts as published, not as open.
    shard_ids = out.shards_at_work()
    with ThreadPoolExecutor(THREADS) as pool:
        files = dict(zip(shard_ids, pool.map(out.unit_files, shard_ids), strict=True))
    commits = {commit.shard_id: commit for commit in out.commits()}
    heads = out.heads()
    replaced = replaced_scenes(heads)
    needed = replaced.keys() | (files.keys() - commits.keys())
    shards = {
        shard.shard_id: without_scenes(shard, replaced.get(shard.shard_id, ()), commits)
        for shard in out.read_shards([head.shard_id for head in heads if head.shard_id in needed])
    }
    parts = [
        _committed(head, commits[head.shard_id], shards.get(head.shard_id))
        if head.shard_id in commits
        else _open(out, head, shards.get(head.shard_id), files.get(head.shard_id))
        for head in heads
    ]
    return parts, [part for part in parts if part.head.shard_id in commits]


def _committed(head: Head, commit: Commit, shard: Shard | None) -> _Part:
    """shard: given if some of its inputs no longer count."""
    if shard is None:
        failures = list(commit.failures)
    else:
        head, failures = shard.head, failures_in(commit, shard)
    return _Part(head, head.units, head.pixels, len(failures), _pixels(failures))


def _open(out: Output, head: Head, shard: Shard | None, files: UnitFiles | None) -> _Part:
    """shard: given if it has unit files, or if some of its inputs no longer count."""
    head = shard.head if shard else head
    if shard is None or files is None:
        return _Part(head, failures=head.rejected)
    # A file that was published meanwhile is gone.
    marked = read_marked(out, shard, files, skip_gone=True)
    damaged = {unit.unit_id for unit in marked.damaged}
    units = [unit for unit in shard.units if unit.unit_id in files.done - damaged]
    return _Part(
        head,
        done_units=len(units),
        done_px=sum(unit.pixels for unit in units),
        failures=head.rejected + len(marked.failures),
        quarantined_px=_pixels(marked.failures),
    )


def _pixels(failures: Iterable[Failure]) -> int:
    return sum(failure.pixels for failure in failures)

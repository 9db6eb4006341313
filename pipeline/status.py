"""What an output says of itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipeline.access import PLAIN, Access
from pipeline.errors import UnfinishedError
from pipeline.output import Output, Shard
from pipeline.receipt import Status
from pipeline.scene import Unit
from pipeline.supersede import THREADS, failures_in, outcome_of, outcomes, standing


def status(output: str, access: Access = PLAIN) -> Status:
    """What OUT's own records say. Raises UsageError where there is no output."""
    out = Output.open(output, access.hurried())
    committed = out.committed()
    shards = standing(list(out.shards()), committed)
    done = {s.shard_id: out.units_done(s.shard_id) for s in shards if s.shard_id not in committed}
    units_done = [
        unit
        for shard in shards
        for unit in shard.units
        if shard.shard_id in committed or unit.unit_id in done[shard.shard_id]
    ]
    so_far = outcomes(shards, out.commit_records())
    quarantined_px = sum(failure.pixels for failure in so_far.failures)
    waiting = [
        (unit, shard)
        for shard in shards
        for unit in shard.units
        if unit.unit_id in done.get(shard.shard_id, ())
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        quarantined_px += sum(pool.map(lambda one: _failed_px(out, *one), waiting))
    return Status(
        output=output,
        units=sum(len(shard.units) for shard in shards),
        units_done=len(units_done),
        shards=len(shards),
        shards_published=len(committed),
        scenes=so_far.planned,
        scenes_published=so_far.total,
        quarantined=len(so_far.failures),
        megapixels=sum(shard.pixels for shard in shards) / 1e6,
        megapixels_done=(sum(unit.pixels for unit in units_done) - quarantined_px) / 1e6,
        megapixels_quarantined=quarantined_px / 1e6,
        finished=bool(shards) and len(committed) == len(shards),
        settings=out.job.to_json(),
        runs=tuple(out.receipts()),
    )


def _failed_px(output: Output, unit: Unit, shard: Shard) -> int:
    """Of a unit that waits to be published; 0 where its file has gone meanwhile, or is damaged:
    whoever runs will say so."""
    try:
        return sum(failure.pixels for failure in failures_in(outcome_of(output, unit), shard))
    except (FileNotFoundError, UnfinishedError):
        return 0

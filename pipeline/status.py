"""What an output says of itself."""

from __future__ import annotations

from pipeline.access import PLAIN, Access
from pipeline.output import Output
from pipeline.receipt import Status
from pipeline.supersede import outcomes, standing


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
        megapixels_done=sum(unit.pixels for unit in units_done) / 1e6,
        finished=bool(shards) and len(committed) == len(shards),
        settings=out.job.to_json(),
        runs=tuple(out.receipts()),
    )

"""What a run did: its tally and the output's commits, as a Receipt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.cluster import IO_CPUS, TASK_CPUS
from pipeline.cost import Machine
from pipeline.output import Output, Shard
from pipeline.receipt import Receipt
from pipeline.settings import Execution
from pipeline.supersede import outcomes
from pipeline.tracker import Tally, Tracker
from pipeline.verdict import tried_again


@dataclass(frozen=True)
class Beginning:
    """Of a run."""

    when: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock_s: float = field(default_factory=time.monotonic)
    tries: int = field(default_factory=tried_again)


def receipt_of(
    output: Output,
    shards: Sequence[Shard],
    tracker: Tracker,
    beginning: Beginning,
    execution: Execution,
    machine: Machine,
) -> Receipt:
    """Of a run that has ended: what it tallied, and what the commits say."""
    tally, came = tracker.tally, outcomes(shards, output.commit_records())
    seconds = time.monotonic() - beginning.clock_s
    # With the plain loop the readers' retries are this process's own.
    retries = tried_again() - beginning.tries + (execution.runner == "ray") * tally.retries
    return Receipt(
        started=beginning.when.isoformat(timespec="seconds"),
        seconds=seconds,
        output=output.store.root,
        runner=execution.runner,
        device=machine.device,
        replicas=machine.replicas,
        units=sum(len(shard.units) for shard in shards),
        units_computed=tally.units,
        scenes_planned=came.planned,
        scenes_done=came.done,
        scenes_partial=came.partial,
        scenes_quarantined=came.quarantined,
        failures=came.failures,
        megapixels=tally.pixels / 1e6,
        megapixels_per_s=tally.pixels / 1e6 / seconds / machine.replicas,
        windows=round(tally.grid_windows),
        windows_computed=tally.windows,
        read_s=tally.read_s,
        segment_s=tally.segment_s,
        finish_s=tally.finish_s,
        retries=retries,
        bounded_by=_bounded_by(tally, execution, machine.replicas),
        pixels_without_area=came.pixels_without_area,
        notes=tracker.notes,
    )


def _bounded_by(tally: Tally, execution: Execution, replicas: int) -> str:
    """The stage whose workers were the busiest."""
    tasks = 1.0 if execution.runner == "local" else IO_CPUS / TASK_CPUS
    busy = {
        "read": tally.read_s / tasks,
        "segment": tally.segment_s / replicas,
        "finish": tally.finish_s / tasks,
    }
    return max(busy, key=lambda stage: busy[stage])

"""Plan and run: what the commands call.

The only room that sees the whole flow; each step is another room's work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline import flow, local
from pipeline.cost import Cost, Machine, Network
from pipeline.errors import UnfinishedError
from pipeline.estimate import estimate
from pipeline.output import Job, Output, Shard
from pipeline.plan import BATCH, Planner
from pipeline.receipt import Estimate, Failure, Progress, Receipt
from pipeline.replica import devices_here
from pipeline.settings import Execution, Settings
from pipeline.stages import Work
from pipeline.survey import Known, OnDescribed, Survey, survey
from pipeline.tracker import Tally, Tracker
from segformer import checkpoint_sha256, load_model

CPU_REPLICA_BYTES = 2_000_000_000
"""No more replicas on a machine's CPUs than leave each this much."""


@dataclass(frozen=True)
class _Prepared:
    """Everything that is settled before the first byte is written."""

    job: Job
    output: Output | None
    """None: there is none yet."""
    cost: Cost
    survey: Survey
    recorded: list[Shard]
    new: list[Shard]
    notes: tuple[str, ...]


def plan(
    inputs: Sequence[str],
    checkpoint: str,
    settings: Settings | None = None,
    execution: Execution | None = None,
    output: str | None = None,
    on_described: OnDescribed | None = None,
) -> Estimate:
    """What `run` with these arguments would do; what it would still do where OUT exists.

    Reads headers and the checkpoint, writes nothing. on_described is called with how many headers
    have been read, of how many. Raises UsageError and CheckpointError, and UnfinishedError where a
    store does not answer.
    """
    execution = execution or Execution()
    ready = _prepare(inputs, checkpoint, settings or Settings(), execution, output, on_described)
    shards = ready.new
    if ready.output is not None:
        shards = [*_open_part(ready.output, ready.recorded), *shards]
    return estimate(ready.cost, shards, ready.survey.inputs, ready.notes)


def run(
    inputs: Sequence[str],
    checkpoint: str,
    output: str,
    settings: Settings | None = None,
    execution: Execution | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_described: OnDescribed | None = None,
) -> Receipt:
    """Segments the inputs into OUT, or goes on where an earlier run stopped.

    on_progress is called about once a second, on_described as in `plan`. Raises UsageError and
    CheckpointError before anything is written, and UnfinishedError where units are left open: run
    it again.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    execution = execution or Execution()
    ready = _prepare(inputs, checkpoint, settings or Settings(), execution, output, on_described)
    out = ready.output or Output.create(output, ready.job, execution.access)
    with out.store.alone("job.json"):
        tally = _carry_out(ready, out, execution, on_progress or (lambda _: None))
        seconds = time.monotonic() - clock
        receipt = _receipt(ready, out, execution, tally, (started, seconds))
        out.write_receipt(started.strftime("%Y%m%dT%H%M%S.%fZ"), receipt.to_json())
    if receipt.scenes_planned != _outcomes(receipt):
        raise UnfinishedError(
            f"{output}: {_outcomes(receipt)} of {receipt.scenes_planned} scenes have an outcome;"
            " the same command goes on from here"
        )
    return receipt


def _carry_out(
    ready: _Prepared, out: Output, execution: Execution, on_progress: Callable[[Progress], None]
) -> Tally:
    """Appends what is new to the plan and computes what has no outcome."""
    out.store.sweep()
    for shard in ready.new:
        out.append(shard)
    shards = ready.recorded + ready.new
    tracker = Tracker(out, shards, ready.cost, ready.notes, on_progress)
    units = tracker.open_units()
    work = Work(out.store.root, execution.access, out.job, ready.cost.machine.replicas)
    tracker.poll()  # a first line: Ray and the model take a while
    if units and execution.runner == "local":
        local.run_units(work, units, tracker.poll)
    elif units:
        flow.run_units(work, units, execution, tracker.poll)
    tracker.close()
    return tracker.tally


def _prepare(
    inputs: Sequence[str],
    checkpoint: str,
    settings: Settings,
    execution: Execution,
    output: str | None,
    on_described: OnDescribed | None,
) -> _Prepared:
    model = load_model(checkpoint, storage_options=execution.access.fsspec(checkpoint))
    device, count = flow.devices_of(execution.address) if execution.address else devices_here()
    existing = None if output is None else Output.find(output, execution.access)
    if settings.batch is None:
        batch = existing.job.settings.batch if existing else BATCH[device]
        settings = replace(settings, batch=batch)
    job = Job(
        settings=settings,
        checkpoint=execution.access.absolute(checkpoint),
        checkpoint_sha256=checkpoint_sha256(
            checkpoint, storage_options=execution.access.fsspec(checkpoint)
        ),
        device=device,
        class_names=model.config.class_names,
        class_colors=model.config.class_colors,
    )
    if existing:
        existing.check_same(job)
        # The folder may have moved; its bytes are the same.
        job = replace(existing.job, checkpoint=job.checkpoint)
        existing = Output(existing.store, job)
    recorded = list(existing.shards()) if existing else []
    channels, known = model.config.num_channels, Known.of(recorded)
    found = survey(inputs, job.settings, channels, known, execution.access, on_described)
    cost = Cost(
        job.settings,
        _machine(device, count, execution),
        Network(model.config.num_labels, model.config.gflop_per_window(job.settings.window)),
    )
    planner = Planner(cost, execution)
    new = list(planner.shards(found.scenes, found.rejected, first=len(recorded)))
    notes = (*model.config.notes, *found.notes)
    return _Prepared(job, existing, cost, found, recorded, new, notes)


def _machine(device: str, count: int, execution: Execution) -> Machine:
    """One replica per GPU; on CPUs one per core, each with one thread."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if execution.runner == "local":
        return Machine(device, 1, memory)
    if device == "cpu":
        count = max(1, min(count, memory // CPU_REPLICA_BYTES))
    return Machine(device, execution.replicas or count, memory)


def _open_part(output: Output, shards: list[Shard]) -> list[Shard]:
    """The shards without what has an outcome already."""
    committed = output.committed()
    parts = []
    for shard in shards:
        if shard.shard_id not in committed:
            done = output.units_done(shard.shard_id)
            units = tuple(unit for unit in shard.units if unit.unit_id not in done)
            ids = {block.scene.scene_id for unit in units for block in unit.blocks}
            scenes = tuple(scene for scene in shard.scenes if scene.scene_id in ids)
            parts.append(replace(shard, units=units, scenes=scenes))
    return parts


def _receipt(
    ready: _Prepared,
    out: Output,
    execution: Execution,
    tally: Tally,
    when: tuple[datetime, float],
) -> Receipt:
    started, seconds = when
    shards = ready.recorded + ready.new
    records = list(out.commit_records())
    machine = ready.cost.machine
    scenes = {
        name: sum(record["scenes"][name] for record in records)
        for name in ("done", "partial", "quarantined")
    }
    return Receipt(
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
        output=out.store.root,
        runner=execution.runner,
        device=machine.device,
        replicas=machine.replicas,
        units=sum(len(shard.units) for shard in shards),
        units_computed=tally.units,
        scenes_planned=sum(len(shard.scenes) + len(shard.rejected) for shard in shards),
        scenes_done=scenes["done"],
        scenes_partial=scenes["partial"],
        scenes_quarantined=scenes["quarantined"],
        failures=tuple(Failure(**f) for record in records for f in record["failures"]),
        megapixels=tally.pixels / 1e6,
        megapixels_per_s=tally.pixels / 1e6 / seconds / machine.replicas,
        windows=round(tally.grid_windows),
        windows_computed=tally.windows,
        read_s=tally.read_s,
        segment_s=tally.segment_s,
        finish_s=tally.finish_s,
        bounded_by=_bounded_by(tally, execution, machine.replicas),
        pixels_without_area=sum(record["pixels_without_area"] for record in records),
        notes=ready.notes,
    )


def _outcomes(receipt: Receipt) -> int:
    return receipt.scenes_done + receipt.scenes_partial + receipt.scenes_quarantined


def _bounded_by(tally: Tally, execution: Execution, replicas: int) -> str:
    """The stage whose workers were the busiest."""
    tasks = 1.0 if execution.runner == "local" else flow.IO_CPUS / flow.TASK_CPUS
    busy = {
        "read": tally.read_s / tasks,
        "segment": tally.segment_s / replicas,
        "finish": tally.finish_s / tasks,
    }
    return max(busy, key=lambda stage: busy[stage])

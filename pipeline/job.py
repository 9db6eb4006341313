"""Plan and run: what the commands call.

The only room that sees the whole flow; each step is another room's work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pipeline import flow, local
from pipeline.account import Account, Beginning
from pipeline.cluster import devices_of, tasks_at_once
from pipeline.cost import Cost, Network
from pipeline.errors import UsageError
from pipeline.estimate import Terms, estimate
from pipeline.machine import Machine, memory_here
from pipeline.memory import Division, division_of
from pipeline.metrics import Metrics
from pipeline.output import Job, Output, Shard
from pipeline.plan import BATCH, Planner
from pipeline.publish import check_published
from pipeline.quarantine import Quarantine
from pipeline.receipt import Estimate, Progress, Receipt
from pipeline.replica import devices_here, from_checkpoint
from pipeline.settings import NOTHING, Execution, Settings, Trial
from pipeline.stages import Work
from pipeline.stores import open_store
from pipeline.supersede import recorded, retrying, standing
from pipeline.survey import Known, OnDescribed, Survey, survey
from pipeline.tracker import Tracker
from pipeline.trial import tried_out
from segformer import checkpoint_sha256, load_model

CPU_REPLICA_BYTES, SHARED_BYTES = 1_500_000_000, 4_000_000_000
"""No more replicas on a machine's CPUs than leave each this much, and this to all else."""


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
    division: Division
    """Of the memory, for the shards that are not published yet."""
    quarantine: Quarantine
    notes: tuple[str, ...]


def plan(
    inputs: Sequence[str],
    checkpoint: str,
    settings: Settings | None = None,
    execution: Execution | None = None,
    output: str | None = None,
    on_described: OnDescribed | None = None,
    trial: Trial = NOTHING,
) -> Estimate:
    """What `run` with these arguments would do; what it would still do where OUT exists.

    Reads headers and the checkpoint, writes nothing but a trial's pictures. on_described is called
    with how many headers have been read, of how many. Raises UsageError and CheckpointError, and
    UnfinishedError where a store does not answer.
    """
    execution = execution or Execution()
    ready = _prepare(inputs, checkpoint, settings or Settings(), execution, output, on_described)
    shards = ready.new
    if ready.output is not None:
        shards = [*_open_part(ready.output, ready.recorded), *shards]
    stops = ready.quarantine.too_many() if shards else None
    notes = [*ready.notes, f"the run will stop: {stops}"] if stops else ready.notes
    work = Work("", execution.access, ready.job, ready.division, execution.unit_timeout)
    tried = tried_out(work, [scene for shard in shards for scene in shard.scenes], trial)
    terms = Terms(tried.rate, execution.price_per_hour)
    notes = [*notes, *tried.notes]
    found = estimate(ready.cost, shards, ready.division, ready.survey.inputs, notes, terms)
    return replace(found, samples=tried.samples)


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
    CheckpointError before anything is computed, and UnfinishedError where units are left open: run
    it again. A run that more inputs fail than execution.max_quarantined allows is one or the other.
    """
    beginning = Beginning()
    execution = execution or Execution()
    with ExitStack() as stack:
        existing = Output.find(output, execution.access.hurried())
        if existing:  # before the plan is read, which another run might be adding to
            stack.enter_context(existing.store.alone("job.json"))
        ready = _prepare(
            inputs, checkpoint, settings or Settings(), execution, output, on_described
        )
        stops = ready.quarantine.too_many() if ready.new else None
        if stops:
            raise UsageError(f"{output}: {stops}; nothing was changed")
        out = ready.output or Output.create(output, ready.job, execution.access)
        if not existing:
            stack.enter_context(out.store.alone("job.json"))
        out.store.sweep()
        for shard in ready.new:
            out.append(shard)
        shards = ready.recorded + ready.new
        watch = Metrics(out.store.root, on_progress)
        notes = (*ready.notes, *ready.survey.rejection)
        tracker = Tracker(out, shards, ready.cost, ready.quarantine, notes, watch)
        account = Account(
            out, shards, tracker, execution, ready.cost.machine, ready.survey, beginning
        )
        with account.kept():
            _carry_out(ready, out, tracker, execution)
            return account.close()


def _carry_out(ready: _Prepared, out: Output, tracker: Tracker, execution: Execution) -> None:
    """Computes what has no outcome."""
    tracker.begin()
    units = tracker.open_units()
    work = Work(
        out.store.root,
        execution.access,
        out.job,
        ready.division,
        execution.unit_timeout,
    )
    tracker.poll()  # a first line: Ray and the model take a while
    if units and execution.runner == "local":
        local.run_units(work, tracker.open_units, tracker.poll)
    elif units:
        tracker.tally.retries += flow.run_units(work, tracker.open_units, execution, tracker.poll)
    tracker.close()


def _prepare(
    inputs: Sequence[str],
    checkpoint: str,
    settings: Settings,
    execution: Execution,
    output: str | None,
    on_described: OnDescribed | None,
) -> _Prepared:
    access = execution.access.hurried()
    model = from_checkpoint(load_model, checkpoint, access)
    weights_bytes = sum(weight.numel() * 4 for weight in model.parameters())
    nodes_bytes: tuple[int, ...] = ()
    if execution.address:
        device, count, nodes_bytes = devices_of(execution.address)
    else:
        device, count = devices_here()
    existing = None if output is None else Output.find(output, access)
    if settings.batch is None:
        batch = existing.job.settings.batch if existing else BATCH[device]
        settings = replace(settings, batch=batch)
    job = Job(
        settings=settings,
        checkpoint=execution.access.absolute(checkpoint),
        checkpoint_sha256=from_checkpoint(checkpoint_sha256, checkpoint, access),
        device=device,
        class_names=model.config.class_names,
        class_colors=model.config.class_colors,
    )
    if existing:
        existing.check_same(job)
        check_published(existing)
        # The folder may have moved; its bytes are the same.
        job = replace(existing.job, checkpoint=job.checkpoint)
        existing = Output(open_store(existing.store.root, execution.access), job)
    earlier = recorded(existing)
    channels, known = model.config.num_channels, Known.of(earlier, execution.retry_quarantined)
    found = survey(inputs, job.settings, channels, known, execution.access, on_described)
    cost = Cost(
        job.settings,
        _machine(device, count, nodes_bytes, execution),
        Network.of(model.config, weights_bytes, job.settings.window),
    )
    planner = Planner(cost, execution)
    planned = planner.shards(found.scenes, found.rejected, first=len(earlier.shards))
    committed = existing.committed() if existing else set()
    shards = standing([*earlier.shards, *retrying(planned, found.retries)], committed)
    left = [unit for shard in shards if shard.shard_id not in committed for unit in shard.units]
    quarantine = Quarantine(sum(len(s.scene_ids) for s in shards), execution.max_quarantined)
    quarantine.add(f for f in earlier.failures if f.scene_id not in found.retries)
    quarantine.add(rejected.failure for rejected in found.rejected)
    notes = (*model.config.notes, *found.notes)
    old, new = shards[: len(earlier.shards)], shards[len(earlier.shards) :]
    division = division_of(cost, left)
    return _Prepared(job, existing, cost, found, old, new, division, quarantine, notes)


def _machine(
    device: str, count: int, nodes_bytes: tuple[int, ...], execution: Execution
) -> Machine:
    """One replica per GPU; on CPUs one per core, each with one thread."""
    memory = memory_here()
    if execution.runner == "local":
        return Machine(device, 1, memory, tasks=0)
    if device == "cpu" and not nodes_bytes:
        count = max(1, min(count, (memory - SHARED_BYTES) // CPU_REPLICA_BYTES))
    replicas = execution.replicas or count
    return Machine(device, replicas, memory, tasks_at_once(device, replicas), nodes_bytes)


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

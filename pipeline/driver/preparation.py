"""Everything that is settled before the first byte is written: the job, the plan, what it takes.

Reads headers, the checkpoint and the output's records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.checkpoint import from_checkpoint
from pipeline.cluster.batch_trial import DEVICES, fitting_batch
from pipeline.cluster.session import devices_of
from pipeline.driver.quarantine import Quarantine
from pipeline.driver.survey import PlannedInputs, OnDescribed, Survey, survey
from pipeline.engine.device import devices_here
from pipeline.errors import UsageError
from pipeline.job import Job
from pipeline.output.layout import Output
from pipeline.output.publishing import check_published
from pipeline.output.replacement import retrying, standing
from pipeline.output.resume import is_of, recorded
from pipeline.output.shard import Shard
from pipeline.planning.cost import Cost, Network
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget, budget_memory
from pipeline.planning.planner import BATCH, Planner
from pipeline.settings import Execution, Settings
from pipeline.share import ALL_SHARDS, Share
from pipeline.stages import Work
from pipeline.storage.schemes import open_store
from segformer import ModelConfig, checkpoint_sha256, load_model


@dataclass(frozen=True)
class Request:
    """What a command asks for."""

    inputs: Sequence[str]
    checkpoint: str
    settings: Settings
    execution: Execution
    on_described: OnDescribed | None = None


@dataclass(frozen=True)
class Preparation:
    """What is settled then."""

    job: Job
    output: Output | None
    """None: there is none yet."""
    cost: Cost
    survey: Survey
    mine: list[Shard]
    """Of the recorded and the new ones, those of this driver's share."""
    new: list[Shard]
    """To be added to the plan."""
    budget: MemoryBudget
    """Of the memory, for the shards that are not published yet."""
    quarantine: Quarantine
    """Of this share."""
    stops: str | None
    """Why the plan must not be carried out."""
    notes: tuple[str, ...]


def prepare(asked: Request, existing: Output | None, closed: bool = False) -> Preparation:
    """closed: whether nothing may be added to the plan."""
    execution, share = asked.execution, asked.execution.shards
    job, existing, cost, config = _settled(asked, existing)
    # Of other shares that are at work, what has an outcome changes meanwhile.
    earlier = recorded(existing, share if closed else ALL_SHARDS)
    found = survey(
        asked.inputs,
        job.settings,
        config.num_channels,
        PlannedInputs.of(earlier, execution.retry_quarantined, closed),
        execution.access,
        asked.on_described,
    )
    planned = Planner(cost, execution).shards(
        found.scenes, found.rejected, first=len(earlier.shards)
    )
    committed = existing.committed() if existing else set()
    shards = standing([*earlier.shards, *retrying(planned, found.retries)], committed)
    mine = [shard for shard in shards if is_of(share, shard)]
    left = [unit for shard in mine if shard.shard_id not in committed for unit in shard.units]
    failures = [f for f in earlier.failures if f.scene_id not in found.retries]
    failures += [rejected.failure for rejected in found.rejected]
    allowed, new = execution.max_quarantined, shards[len(earlier.shards) :]
    return Preparation(
        job=job,
        output=existing,
        cost=cost,
        survey=found,
        mine=mine,
        new=new,
        budget=budget_memory(cost, left),
        quarantine=Quarantine.of([shard.scene_ids for shard in mine], failures, allowed),
        stops=Quarantine.of([s.scene_ids for s in shards], failures, allowed).too_many(),
        notes=(*config.notes, *found.notes, *_of_share(share, shards, mine)),
    )


def _settled(asked: Request, existing: Output | None) -> tuple[Job, Output | None, Cost, ModelConfig]:
    """The job, its output as it is to be reached from now on, costs, and the network.

    Raises CheckpointError, and UsageError where the output belongs to another job.
    """
    execution, settings = asked.execution, asked.settings
    access = execution.access.impatient()
    model = from_checkpoint(load_model, asked.checkpoint, access)
    weights_bytes = sum(weight.numel() * 4 for weight in model.parameters())
    nodes_bytes: tuple[int, ...] = ()
    cpus = 0
    if execution.address:
        device, count, nodes_bytes, cpus = devices_of(execution.address)
    else:
        device, count = devices_here()
    if settings.batch is None:
        batch = existing.job.settings.batch if existing else BATCH[device]
        settings = replace(settings, batch=batch)
    job = Job(
        settings=settings,
        checkpoint=execution.access.absolute(asked.checkpoint),
        checkpoint_sha256=from_checkpoint(checkpoint_sha256, asked.checkpoint, access),
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
    machine = Machine.of(device, count, nodes_bytes, execution, cpus)
    network = Network.of(model.config, weights_bytes, job.settings.window)
    return job, existing, Cost(job.settings, machine, network), model.config


def to_be_tried(ready: Preparation) -> bool:
    """Whether a run begins by trying the batch."""
    return ready.output is None and ready.job.device in DEVICES


def with_batch(ready: Preparation, asked: Request) -> Preparation:
    """With a batch that fits where the job will run; recorded ones are not tried.

    Raises UsageError where the one that was asked for does not fit, or none does, and what
    `fitting_batch` raises.
    """
    units = [unit for shard in ready.new for unit in shard.units]
    if not units or not to_be_tried(ready):
        return ready
    execution, settings = asked.execution, ready.job.settings
    work = Work("", execution.access, ready.job, ready.budget, execution.unit_timeout)
    largest = max(units, key=ready.cost.device_bytes)
    batch = fitting_batch(work, largest, execution.address)
    if batch == settings.batch:
        return ready
    said = f"--batch {settings.batch}:"
    if batch is None:
        note = (
            f"{said} no GPU of the cluster was free to try it; where it does not fit, the run will"
            " stop and name one that does"
        )
        return replace(ready, notes=(*ready.notes, note))
    where = (
        f"beside block {largest.blocks[0].core}, windows of {settings.window} px,"
        f" {settings.dtype}, {ready.job.device}"
    )
    if not batch:
        raise UsageError(
            f"{said} there is no memory for even one window ({where}); use a smaller --window or"
            " --block, another --dtype or a smaller network"
        )
    if asked.settings.batch:
        raise UsageError(f"{said} there is no memory for it ({where}); use --batch {batch}")
    settings = replace(settings, batch=batch)
    note = f"--batch {batch}: there is no memory for twice as many ({where})"
    job, cost = replace(ready.job, settings=settings), replace(ready.cost, settings=settings)
    return replace(ready, job=job, cost=cost, notes=(*ready.notes, note))


def _of_share(share: Share, shards: list[Shard], mine: list[Shard]) -> Iterator[str]:
    if share.whole:
        return
    few = "" if mine else "; there are too few, for a scene is never divided between drivers"
    yield (
        f"--shards {share}: {len(mine):,} of the plan's {len(shards):,} shards are this driver's"
        f"{few}"
    )


def open_part(output: Output, shards: list[Shard], but: Collection[str]) -> list[Shard]:
    """The shards, but some, without what has an outcome already."""
    done = {*output.committed(), *but}
    parts = []
    for shard in shards:
        if shard.shard_id not in done:
            finished = output.units_done(shard.shard_id)
            units = tuple(unit for unit in shard.units if unit.unit_id not in finished)
            ids = {block.scene.scene_id for unit in units for block in unit.blocks}
            scenes = tuple(scene for scene in shard.scenes if scene.scene_id in ids)
            parts.append(replace(shard, units=units, scenes=scenes))
    return parts

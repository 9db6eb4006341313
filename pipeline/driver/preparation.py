"""Everything that is settled before the first byte is written: the job, the plan, what it takes.

Reads headers, the checkpoint and the output's records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.checkpoint import call_on_checkpoint
from pipeline.doubt import doubt_notes
from pipeline.driver.overlap_note import overlap_note
from pipeline.driver.planned_inputs import PlannedInputs
from pipeline.driver.quarantine import Quarantine
from pipeline.driver.survey import Survey, survey_inputs
from pipeline.engine.device import local_devices
from pipeline.errors import UsageError
from pipeline.imagery.header_pool import OnDescribed
from pipeline.job import Job
from pipeline.output.layout import Output
from pipeline.output.publishing import check_published
from pipeline.output.replacement import current_shards, with_retries
from pipeline.output.resume import OutputRecord, in_share, read_record
from pipeline.output.shard import Shard
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget, budget_memory
from pipeline.planning.planner import BATCH, Planner
from pipeline.planning.workload import Network, Workload
from pipeline.settings import Execution, Settings
from pipeline.share import ALL_SHARDS, Share
from pipeline.stages import Segmentation
from pipeline.storage.schemes import open_store
from pipeline.unit import Unit
from segformer import ModelConfig, read_checkpoint
from segformer.folding import folded_bytes


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
    """What is settled for a request."""

    request: Request
    job: Job
    output: Output | None
    """None: there is none yet."""
    workload: Workload
    survey: Survey
    shards: list[Shard]
    """The shards of this driver's share, recorded and new ones."""
    new: list[Shard]
    """Shards to add to the plan, of any share."""
    budget: MemoryBudget
    """The division of memory for the shards that are not published yet."""
    quarantine: Quarantine
    """The failures in this driver's share."""
    damaged: list[Unit]
    """Units with a damaged file, which a run deletes."""
    stop_reason: str | None
    """Why the plan must not be carried out: too many inputs have failed. None: it may be."""
    notes: tuple[str, ...]

    @property
    def new_ids(self) -> Collection[str]:
        return {shard.shard_id for shard in self.new}

    @property
    def segmentation(self) -> Segmentation:
        """How the job's units are read and segmented."""
        execution = self.request.execution
        return Segmentation(self.job, execution.access, self.budget, execution.unit_timeout)


def prepare(request: Request, output: Output | None, closed: bool = False) -> Preparation:
    """Settle what a request means, with the output that exists, if there is one.

    closed: whether nothing may be added to the plan. Raises what reading the checkpoint, the
    headers and the output's records raises, and UsageError if the plan does not fit into memory.
    """
    execution, share = request.execution, request.execution.shards
    job, output, workload, config = _settle_job(request, output)
    # While other drivers work, the outcomes of their shares change.
    record = read_record(output, share if closed else ALL_SHARDS)
    survey = survey_inputs(
        request.inputs,
        job.settings,
        config.num_channels,
        PlannedInputs.of(record, execution.retry_quarantined, closed),
        execution.access,
        request.on_described,
    )
    committed = output.committed() if output else set()
    plan = _plan(Planner(workload, execution), record, survey, committed)
    shards = [shard for shard in plan if in_share(shard, share)]
    open_units = [u for shard in shards if shard.shard_id not in committed for u in shard.units]
    return Preparation(
        request=request,
        job=job,
        output=output,
        workload=workload,
        survey=survey,
        shards=shards,
        new=plan[len(record.shards) :],
        budget=budget_memory(workload, open_units),
        quarantine=_quarantine(shards, record, survey, execution),
        damaged=record.damaged,
        stop_reason=_quarantine(plan, record, survey, execution).too_many(),
        notes=(
            *config.notes,
            *overlap_note(scene for shard in shards for scene in shard.scenes),
            *survey.notes,
            *_doubts(shards),
            *_share_note(share, plan, shards),
        ),
    )


def _settle_job(
    request: Request, output: Output | None
) -> tuple[Job, Output | None, Workload, ModelConfig]:
    """The job, its output as it is reached from now on, the costs, and the network.

    Raises CheckpointError, and UsageError if the network does not take the window or the output
    belongs to another job.
    """
    execution, settings = request.execution, request.settings
    access = execution.access.impatient()
    checkpoint = call_on_checkpoint(
        read_checkpoint, request.checkpoint, access, weights=settings.weights
    )
    config = checkpoint.config
    _check_window(settings, config)
    device, count, nodes_bytes, cpus = _devices(execution.address)
    if settings.batch is None:
        batch = output.job.settings.batch if output else BATCH[device]
        settings = replace(settings, batch=batch)
    job = Job(
        settings=settings,
        checkpoint=execution.access.absolute(request.checkpoint),
        checkpoint_sha256=checkpoint.sha256,
        device=device,
        class_names=config.class_names,
        class_colors=config.class_colors,
        value_range=checkpoint.normalisation.expected,
    )
    if output:
        output.check_same(job)
        check_published(output)
        # The folder may have moved; its bytes are the same.
        job = replace(output.job, checkpoint=job.checkpoint)
        output = Output(open_store(output.store.root, execution.access), job)
    machine = Machine.of(device, count, nodes_bytes, execution, cpus)
    network = Network.of(config, folded_bytes(config), job.settings.window)
    return job, output, Workload(job.settings, machine, network), config


def _check_window(settings: Settings, config: ModelConfig) -> None:
    """Raise UsageError, which names the nearest, for a window that the network does not take."""
    window, step = settings.window, config.window_step_px
    if window % step:
        below = window // step * step
        allowed = [edge for edge in (below + step, below) if edge >= max(step, settings.stride)]
        nearest = min(allowed, key=lambda edge: abs(edge - window))
        raise UsageError(
            f"--window {window}: the network, of segmentation_models_pytorch, takes multiples of"
            f" {step} px only; the nearest is --window {nearest}"
        )


def _devices(address: str | None) -> tuple[str, int, tuple[int, ...], int]:
    """The kind and number of the devices, the memory of each node, and the CPUs: of the cluster at
    the address, or of this machine, for which the last two are empty."""
    if not address:
        return *local_devices(), (), 0
    from pipeline.cluster.session import devices_of  # noqa: PLC0415  Ray takes seconds to load

    return devices_of(address)


def _plan(
    planner: Planner, record: OutputRecord, survey: Survey, committed: Collection[str]
) -> list[Shard]:
    """The recorded shards, then the new ones."""
    new = planner.shards(survey.scenes, survey.rejected, first=len(record.shards))
    return current_shards([*record.shards, *with_retries(new, survey.retries)], committed)


def _quarantine(
    shards: Sequence[Shard], record: OutputRecord, survey: Survey, execution: Execution
) -> Quarantine:
    """The failures so far among the inputs of these shards; those of inputs that are planned again
    no longer count."""
    failures = [f for f in record.failures if f.scene_id not in survey.retries]
    failures += [rejected.failure for rejected in survey.rejected]
    scene_ids = [shard.scene_ids for shard in shards]
    return Quarantine.of(scene_ids, failures, execution.max_quarantined)


def _doubts(shards: Sequence[Shard]) -> Iterator[str]:
    """Notes on what is doubtful about the scenes of these shards, planned now or earlier: each run
    and its receipt repeat them."""
    scenes = (scene for shard in shards for scene in shard.scenes)
    return doubt_notes((scene.url, doubt) for scene in scenes for doubt in scene.doubts)


def _share_note(share: Share, plan: Sequence[Shard], shards: Sequence[Shard]) -> Iterator[str]:
    """A note on how much of the plan is this driver's."""
    if not share.whole:
        few = "" if shards else "; there are too few, for a scene is never divided between drivers"
        yield (
            f"--shards {share}: {len(shards):,} of the plan's {len(plan):,} shards are this"
            f" driver's{few}"
        )


def open_part(output: Output, shards: Sequence[Shard], excluded: Collection[str]) -> list[Shard]:
    """The open shards, each without the units that have an outcome already. excluded: ids of shards
    to skip."""
    skipped = {*output.committed(), *excluded}
    parts = []
    for shard in shards:
        if shard.shard_id not in skipped:
            finished = output.units_done(shard.shard_id)
            units = tuple(unit for unit in shard.units if unit.unit_id not in finished)
            ids = {block.scene.scene_id for unit in units for block in unit.blocks}
            scenes = tuple(scene for scene in shard.scenes if scene.scene_id in ids)
            parts.append(replace(shard, units=units, scenes=scenes))
    return parts

"""Everything that is settled before the first byte is written: the job, the plan, what it takes.

Reads headers, the checkpoint and the output's records.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from pipeline.checkpoint import hub_name
from pipeline.doubt import doubt_notes
from pipeline.driver.division import Division, divide
from pipeline.driver.laps import HEADERS
from pipeline.driver.overlap_note import overlap_note
from pipeline.driver.planned_inputs import PlannedInputs
from pipeline.driver.quarantine import Quarantine
from pipeline.driver.request import OpenedRequest
from pipeline.driver.survey import Survey, survey_inputs
from pipeline.errors import UsageError
from pipeline.imagery.header_pool import HeaderPool
from pipeline.job import Job
from pipeline.model import Model
from pipeline.output.layout import Output
from pipeline.output.publishing import check_published
from pipeline.output.resume import OutputRecord, read_record
from pipeline.output.shard import Shard
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.planner import BATCH
from pipeline.planning.workload import Network, Workload
from pipeline.settings import Execution, Settings
from pipeline.share import ALL_SHARDS, Share
from pipeline.stages import Segmentation
from pipeline.storage.schemes import open_store
from pipeline.unit import Unit
from segformer.config import ModelConfig


@dataclass(frozen=True)
class Preparation:
    """What is settled for a request."""

    request: OpenedRequest
    job: Job
    output: Output | None
    """None: there is none yet."""
    survey: Survey
    division: Division
    """The plan, for the runner that suits it."""
    new: list[Shard]
    """Shards to add to the plan, of any share."""
    quarantine: Quarantine
    """The failures in this driver's share."""
    damaged: list[Unit]
    """Units with a damaged file, which a run deletes."""
    stop_reason: str | None
    """Why the plan must not be carried out: too many inputs have failed. None: it may be."""
    notes: tuple[str, ...]

    @property
    def workload(self) -> Workload:
        return self.division.workload

    @property
    def shards(self) -> list[Shard]:
        """The shards of this driver's share, recorded and new ones."""
        return self.division.shards

    @property
    def budget(self) -> MemoryBudget:
        return self.division.budget

    @property
    def new_ids(self) -> Collection[str]:
        return {shard.shard_id for shard in self.new}

    @property
    def segmentation(self) -> Segmentation:
        """How the job's units are read and segmented."""
        execution = self.request.execution
        return Segmentation(self.job, execution.access, self.budget, execution.unit_timeout)


def prepare(request: OpenedRequest, output: Output | None, closed: bool = False) -> Preparation:
    """Settle what a request means, with the output that exists, if there is one.

    closed: whether nothing may be added to the plan. Raises what reading the checkpoint, the
    headers and the output's records raises, and UsageError if the plan does not fit into memory.
    """
    execution, share, loop = request.execution, request.execution.shards, request.loop

    @cache
    def settled() -> tuple[Job, Output | None, Workload, ModelConfig]:
        return _settle_job(request, output)

    def on_described(done: int, total: int) -> None:
        if loop.is_ready:
            settled()  # a checkpoint is refused now, not after a hundred thousand headers
        if request.on_described:
            request.on_described(done, total)

    channels = None if output else loop.stated_channels()
    if channels is None:
        channels = settled()[-1].num_channels
    # While other drivers work, the outcomes of their shares change.
    record = read_record(output, share if closed else ALL_SHARDS)
    with loop.laps.time(HEADERS):
        survey = survey_inputs(
            request.inputs,
            request.settings,
            channels,
            PlannedInputs.of(record, execution.retry_quarantined, closed),
            execution.access,
            HeaderPool(on_described, loop.run_items),
        )
    job, output, workload, config = settled()
    if config.num_channels != channels:
        raise UsageError(f"{request.checkpoint}: it changed while it was read; run again")
    committed = output.committed() if output else set()
    division = divide(workload, execution, record, survey, committed)
    plan, shards = division.plan, division.shards
    return Preparation(
        request=request,
        job=job,
        output=output,
        survey=survey,
        division=division,
        new=plan[len(record.shards) :],
        quarantine=_quarantine(shards, record, survey, execution),
        damaged=record.damaged,
        stop_reason=_quarantine(plan, record, survey, execution).too_many(),
        notes=(
            *config.notes,
            *overlap_note(scene for shard in shards for scene in shard.scenes),
            *survey.notes,
            *_doubts(shards),
            *_share_note(share, plan, shards),
            *division.notes,
        ),
    )


def _settle_job(
    request: OpenedRequest, output: Output | None
) -> tuple[Job, Output | None, Workload, ModelConfig]:
    """The job, its output as it is reached from now on, the costs, and the network.

    Raises CheckpointError, and UsageError if the network does not take the window or the output
    belongs to another job.
    """
    execution, settings = request.execution, request.settings
    model = request.loop.model(output.job if output else None)
    config = model.config
    _check_window(settings, config)
    device, count, nodes_bytes, cpus = _devices(execution.address, model)
    if settings.batch is None:
        batch = output.job.settings.batch if output else BATCH[device]
        settings = replace(settings, batch=batch)
    job = Job(
        settings=settings,
        checkpoint=model.checkpoint,
        checkpoint_sha256=model.sha256,
        device=device,
        class_names=config.class_names,
        class_colors=config.class_colors,
        value_range=model.value_range,
        checkpoint_asked=hub_name(request.checkpoint),
    )
    if output:
        output.check_same(job)
        check_published(output)
        # The folder may have moved; its bytes are the same.
        job = replace(output.job, checkpoint=job.checkpoint)
        output = Output(open_store(output.store.root, execution.access), job)
    machine = Machine.of(device, count, nodes_bytes, execution, cpus)
    network = Network.of(config, model.weights_bytes, job.settings.window)
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


def _devices(address: str | None, model: Model) -> tuple[str, int, tuple[int, ...], int]:
    """The kind and number of the devices, the memory of each node, and the CPUs: of the cluster at
    the address, or of this machine, for which the last two are empty."""
    if not address:
        return model.device, model.devices, (), 0
    from pipeline.cluster.session import devices_of  # noqa: PLC0415  Ray takes seconds to load

    return devices_of(address)


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

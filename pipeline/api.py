"""Plan and run: what the commands call.

The only room that sees the whole way; each step is another room's work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.driver.batch import fit_batch
from pipeline.driver.choose_runner import choose_runner
from pipeline.driver.laps import PLAN
from pipeline.driver.plan_notes import batch_note, output_note, runs_note, stop_note
from pipeline.driver.preparation import Preparation, open_part, prepare
from pipeline.driver.quarantine import remedy
from pipeline.driver.receipt_writer import ReceiptWriter
from pipeline.driver.request import OpenedRequest, Request
from pipeline.driver.run_start import RunStart
from pipeline.driver.runner import Runner
from pipeline.driver.tracker import Tracker
from pipeline.driver.warning_notes import WarningNotes
from pipeline.errors import UnfinishedError, UsageError
from pipeline.estimate import EarlierRuns, Estimate
from pipeline.imagery.header_pool import OnDescribed
from pipeline.job_writer import job_file_text, write_job_file
from pipeline.output.layout import Output, delete_unit
from pipeline.output.locks import PLANNING, hold_share, is_alone
from pipeline.output.shard import Shard
from pipeline.planning.forecast import Pricing, estimate
from pipeline.progress import Progress
from pipeline.receipt import Receipt
from pipeline.settings import NO_TRIAL, Execution, Settings, Trial
from pipeline.stages import Work
from pipeline.storage.schemes import open_store
from pipeline.trial.results import run_trial

if TYPE_CHECKING:
    from pipeline.cluster.stages import Stages


def plan(
    inputs: Sequence[str],
    checkpoint: str,
    settings: Settings | None = None,
    execution: Execution | None = None,
    output: str | None = None,
    on_described: OnDescribed | None = None,
    trial: Trial = NO_TRIAL,
) -> Estimate:
    """Estimate what `run` with these arguments would do; if OUT exists, what it would still do.

    Reads headers and the checkpoint, writes nothing but a trial's pictures. on_described: called
    with the number of headers read so far and the number of all. Raises UsageError and
    CheckpointError, and UnfinishedError if a store does not answer.
    """
    settings, execution = settings or Settings(), execution or Execution()
    request = Request(inputs, checkpoint, settings, execution, on_described)
    return plan_request(request, output, trial)


def plan_request(request: Request, output: str | None, trial: Trial) -> Estimate:
    """See `plan`."""
    execution = request.execution
    if trial.sample_to:  # a folder that cannot be written to is refused now, not after minutes
        open_store(trial.sample_to, execution.access.impatient()).check_writable()
    with request.opened(output) as opened:
        return _plan(opened, output, trial)


def _plan(request: OpenedRequest, output: str | None, trial: Trial) -> Estimate:
    execution = request.execution
    existing = None if output is None else Output.find(output, execution.access.impatient())
    preparation = prepare(request, existing)
    computes = (trial.calibrate or trial.sample > 0) and not execution.address
    if computes:  # with the batch that a run would have
        preparation = fit_batch(preparation)
    shards = _open_shards(preparation, existing)
    scenes = [scene for shard in shards for scene in shard.scenes]
    request.loop.close()
    results = run_trial(preparation.segmentation, scenes, trial)
    pricing = Pricing(results.rate, execution.price_per_hour)
    forecast = estimate(
        preparation.workload, shards, preparation.budget, preparation.survey.inputs, pricing
    )
    earlier = _earlier_runs(preparation, existing, shards)
    notes = (
        *preparation.notes,
        *([] if computes else batch_note(preparation)),
        *stop_note(preparation, shards),
        *results.notes,
        *output_note(preparation, output, shards, earlier),
        *forecast.notes,
        *runs_note(forecast.hours, execution.max_hours),
    )
    return replace(forecast, samples=results.samples, notes=notes, earlier=earlier)


def _open_shards(preparation: Preparation, existing: Output | None) -> list[Shard]:
    """What is left to do in this driver's share: recorded shards, then new ones."""
    new_ids = preparation.new_ids
    new = [shard for shard in preparation.shards if shard.shard_id in new_ids]
    if existing is None:
        return new
    return [*open_part(existing, preparation.shards, new_ids), *new]


def _earlier_runs(
    preparation: Preparation, existing: Output | None, open_shards: Sequence[Shard]
) -> EarlierRuns | None:
    """What earlier runs have done in the output, or in this driver's share of it."""
    if existing is None:
        return None
    new_ids = preparation.new_ids
    planned_px, open_px = (
        sum(shard.pixels for shard in shards if shard.shard_id not in new_ids)
        for shards in (preparation.shards, open_shards)
    )
    quarantine = preparation.quarantine
    rejected_now = {rejected.failure.scene_id for rejected in preparation.survey.rejected}
    return EarlierRuns(
        megapixels_done=(planned_px - open_px - quarantine.pixels) / 1e6,
        megapixels_quarantined=quarantine.pixels / 1e6,
        scenes_quarantined=len(quarantine.failures.keys() - rejected_now),
    )


def run(
    inputs: Sequence[str],
    checkpoint: str,
    output: str,
    settings: Settings | None = None,
    execution: Execution | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_described: OnDescribed | None = None,
) -> Receipt:
    """Segment the inputs into OUT, or resume an earlier run.

    on_progress: called about once a second; on_described: as in `plan`. Raises UsageError and
    CheckpointError before anything is computed, and UnfinishedError if units are left open: run it
    again. If more inputs fail than execution.max_quarantined allows, it is one or the other.
    """
    settings, execution = settings or Settings(), execution or Execution()
    request = Request(inputs, checkpoint, settings, execution, on_described)
    return run_request(request, output, on_progress)


def run_request(
    request: Request,
    output: str,
    on_progress: Callable[[Progress], None] | None = None,
    stages: Stages | None = None,
) -> Receipt:
    """See `run`. stages: benchmarks replace some of those that work on Ray."""
    start, execution, said = RunStart(), request.execution, WarningNotes()
    with said.collect(), request.opened(output) as opened, ExitStack() as locks:
        with opened.loop.laps.time(PLAN):
            preparation, out = _begin(opened, output, locks)
        job = preparation.job
        work = Work(
            job,
            execution.access,
            preparation.budget,
            execution.unit_timeout,
            out.store.root,
            start.deadline(execution.max_hours),
        )
        # Importing Ray takes seconds: an interrupt then leaves no run that seems to have died.
        runner = choose_runner(work, preparation, stages)
        text = job_file_text(
            request.inputs, job.checkpoint, output, job.settings, execution, runner.name
        )
        write_job_file(out.store, start.name, text)
        tracker = Tracker(
            out,
            preparation.shards,
            preparation.quarantine,
            runner.publisher,
            (*preparation.notes, *preparation.survey.rejection),
            runner.reporting(on_progress),
        )
        writer = ReceiptWriter(out, preparation, tracker, runner, start, said)
        with writer.write_on_error():
            _carry_out(tracker, runner)
            _check_time(tracker, work, preparation)
            return writer.close()


def _begin(request: OpenedRequest, output: str, locks: ExitStack) -> tuple[Preparation, Output]:
    """Lock the output, or this driver's share of it, and record the plan. Of several drivers the
    first one plans, before the others start; these work by the recorded plan."""
    share, access = request.execution.shards, request.execution.access
    store = open_store(output, access.impatient())
    store.check_writable()
    with ExitStack() as planning:
        if not share.whole:
            planning.enter_context(store.hold(PLANNING, True))
        existing = Output.find(output, access.impatient())
        if existing:  # before the plan is read, which another run might be adding to
            locks.enter_context(hold_share(existing.store, share))
        alone = existing is None or share.whole or is_alone(existing.store, share)
        preparation = prepare(request, existing, closed=not alone)
        if preparation.stop_reason and preparation.new:
            reason = f"{preparation.stop_reason}. {remedy(existing is not None)}"
            raise UsageError(f"{output}: {reason}; nothing was changed")
        preparation = fit_batch(preparation)
        out = preparation.output or Output.create(output, preparation.job, access)
        if not existing:
            locks.enter_context(hold_share(out.store, share))
        if alone:
            out.store.sweep()
            out.append(preparation.new)
        for unit in preparation.damaged:
            delete_unit(out.store, unit)
    return preparation, out


def _carry_out(tracker: Tracker, runner: Runner) -> None:
    """Compute the units that have no outcome, and publish."""
    tracker.start()
    tracker.poll()  # a first report: Ray and the model take a while
    if not tracker.is_done:
        runner.run_units(tracker)
    tracker.close()


def _check_time(tracker: Tracker, work: Work, preparation: Preparation) -> None:
    """Raises UnfinishedError if the time was up before all was done."""
    open_units = len(tracker.open_units())
    if open_units and work.out_of_time:
        max_hours = preparation.request.execution.max_hours
        raise UnfinishedError(
            f"out of time: the {max_hours:g} h of --max-hours are over, and {open_units:,} of"
            f" {sum(len(shard.units) for shard in preparation.shards):,} units are left; what is"
            " done is kept, the same command resumes the run"
        )

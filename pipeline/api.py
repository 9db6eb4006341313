"""Plan and run: what the commands call.

The only room that sees the whole flow; each step is another room's work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from pipeline.cluster.callbacks import PoolMeter
from pipeline.cluster.flow import Flow
from pipeline.cluster.metrics import Metrics
from pipeline.cluster.publishers import Publishers
from pipeline.cluster.stages import STAGES, Stages
from pipeline.driver import local
from pipeline.driver.receipt_writer import ReceiptWriter, RunStart
from pipeline.driver.preparation import Request, Preparation, open_part, prepare, to_be_tried, with_batch
from pipeline.driver.quarantine import remedy
from pipeline.driver.survey import OnDescribed
from pipeline.driver.tracker import Publisher, Tracker
from pipeline.errors import UnfinishedError, UsageError
from pipeline.estimate import EarlierRuns, Estimate
from pipeline.job_file import job_file_text, write_job_file
from pipeline.output.layout import Output
from pipeline.output.locks import PLANNING, is_alone, working
from pipeline.output.shard import Shard
from pipeline.planning.forecast import Pricing, estimate
from pipeline.progress import Progress
from pipeline.receipt import Receipt
from pipeline.settings import NO_TRIAL, Execution, Settings, Trial
from pipeline.stages import Work
from pipeline.storage.schemes import open_store
from pipeline.trial.results import run_trial
from pipeline.unit import Unit

RunUnits = Callable[[Callable[[], list[Unit]], Callable[[], None]], int]
"""Computes the open units and polls meanwhile; how often other processes tried something again."""


def plan(
    inputs: Sequence[str],
    checkpoint: str,
    settings: Settings | None = None,
    execution: Execution | None = None,
    output: str | None = None,
    on_described: OnDescribed | None = None,
    trial: Trial = NO_TRIAL,
) -> Estimate:
    """What `run` with these arguments would do; what it would still do where OUT exists.

    Reads headers and the checkpoint, writes nothing but a trial's pictures. on_described is called
    with how many headers have been read, of how many. Raises UsageError and CheckpointError, and
    UnfinishedError where a store does not answer.
    """
    execution = execution or Execution()
    if trial.sample_to:  # what cannot be made is refused now, not after minutes
        open_store(trial.sample_to, execution.access.impatient()).check_writable()
    asked = Request(inputs, checkpoint, settings or Settings(), execution, on_described)
    existing = None if output is None else Output.find(output, execution.access.impatient())
    ready = prepare(asked, existing)
    tries = (trial.calibrate or trial.sample > 0) and not execution.address
    if tries:  # with the batch that a run would have
        ready = with_batch(ready, asked)
    added = {shard.shard_id for shard in ready.new}
    shards = [shard for shard in ready.mine if shard.shard_id in added]
    if existing:
        shards = [*open_part(existing, ready.mine, added), *shards]
    stops = []
    if ready.stops and shards:
        stops.append(f"the run will stop: {ready.stops}. {remedy(existing is not None)}")
    work = Work("", execution.access, ready.job, ready.budget, execution.unit_timeout)
    earlier = _earlier(existing, ready, added, shards)
    tried = run_trial(work, [scene for shard in shards for scene in shard.scenes], trial)
    terms = Pricing(tried.rate, execution.price_per_hour)
    quarantined = earlier.scenes_quarantined if earlier else 0
    of_output = _of_output(output, existing, shards, execution, quarantined)
    untried = [] if tries else _untried(ready)
    notes = [*ready.notes, *untried, *stops, *tried.notes, *of_output]
    found = estimate(ready.cost, shards, ready.budget, ready.survey.inputs, notes, terms)
    notes = [*found.notes, *_in_runs(found.hours, execution.max_hours)]
    return replace(found, samples=tried.samples, notes=tuple(notes), earlier=earlier)


def _earlier(
    existing: Output | None, ready: Preparation, added: Collection[str], left: Sequence[Shard]
) -> EarlierRuns | None:
    """What stands in the output, or in this driver's share of it. left: what is to be done."""
    if existing is None:
        return None
    planned_px, left_px = (
        sum(shard.pixels for shard in shards if shard.shard_id not in added)
        for shards in (ready.mine, left)
    )
    new = {rejected.failure.scene_id for rejected in ready.survey.rejected}
    quarantined_px = ready.quarantine.pixels
    return EarlierRuns(
        megapixels_done=(planned_px - left_px - quarantined_px) / 1e6,
        megapixels_quarantined=quarantined_px / 1e6,
        scenes_quarantined=len(ready.quarantine.failures.keys() - new),
    )


def _untried(ready: Preparation) -> list[str]:
    if not to_be_tried(ready):
        return []
    return [
        f"whether a batch of {ready.job.settings.batch} windows fits is tried when a run begins"
    ]


def _of_output(
    output: str | None,
    existing: Output | None,
    shards: Sequence[Shard],
    execution: Execution,
    quarantined: int,
) -> list[str]:
    """A note where OUT is not there, or all zeros would be a riddle. shards: what is not
    published; quarantined: scenes."""
    if existing is None:
        return [f"{output}: there is no output yet, so all is counted"] if output else []
    if any(shard.units for shard in shards):
        return []
    if shards:
        return [f"nothing is left to compute, but shards are to be published: {len(shards):,}"]
    whose = "" if execution.shards.whole else f" of --shards {execution.shards}"
    done = f"nothing is left to do: {existing.store.root} has every input{whose}"
    if quarantined:
        done += f", {quarantined:,} of them in quarantine: --retry-quarantined tries these again"
    return [done]


def _in_runs(hours: float, most: float | None) -> list[str]:
    """A note where one run will not do."""
    if most is None or hours <= most:
        return []
    return [f"about {math.ceil(hours / most):,} runs of --max-hours {most:g}, by the same command"]


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
    execution = execution or Execution()
    asked = Request(inputs, checkpoint, settings or Settings(), execution, on_described)
    return run_request(asked, output, on_progress)


def run_request(
    asked: Request,
    output: str,
    on_progress: Callable[[Progress], None] | None = None,
    stages: Stages = STAGES,
) -> Receipt:
    """See `run`. stages: benchmarks replace some of those that work on Ray."""
    beginning, execution = RunStart(), asked.execution
    with ExitStack() as held:
        ready, out = _begin(asked, output, held)
        told = asked.inputs, ready.job.checkpoint, output, ready.job.settings, execution
        write_job_file(out.store, beginning.name, job_file_text(*told))
        meter = PoolMeter()
        watch = Metrics(out.store.root, meter, on_progress)
        notes = (*ready.notes, *ready.survey.rejection)
        until = beginning.until(execution.max_hours)
        work = Work(
            out.store.root,
            execution.access,
            out.job,
            ready.budget,
            execution.unit_timeout,
            until,
        )
        publications, run_units = _runner(work, execution.address, meter, stages)
        tracker = Tracker(out, ready.mine, ready.cost, ready.quarantine, publications, notes, watch)
        account = ReceiptWriter(
            out, ready.mine, tracker, execution, ready.budget, ready.survey, beginning, meter
        )
        with account.kept():
            _carry_out(tracker, run_units)
            _check_time(tracker, work, ready.mine, execution.max_hours)
            return account.close()


def _begin(asked: Request, output: str, held: ExitStack) -> tuple[Preparation, Output]:
    """Holds the output, or its share of it, and records the plan. Of several drivers one plans,
    before the others begin; these work by the recorded plan."""
    share, access = asked.execution.shards, asked.execution.access
    store = open_store(output, access.impatient())
    store.check_writable()
    with ExitStack() as planning:
        if not share.whole:
            planning.enter_context(store.hold(PLANNING, True))
        existing = Output.find(output, access.impatient())
        if existing:  # before the plan is read, which another run might be adding to
            held.enter_context(working(existing.store, share))
        alone = existing is None or share.whole or is_alone(existing.store, share)
        ready = prepare(asked, existing, closed=not alone)
        if ready.stops and ready.new:
            why = f"{ready.stops}. {remedy(existing is not None)}"
            raise UsageError(f"{output}: {why}; nothing was changed")
        ready = with_batch(ready, asked)
        out = ready.output or Output.create(output, ready.job, access)
        if not existing:
            held.enter_context(working(out.store, share))
        if alone:
            out.store.sweep()
            out.append(ready.new)
    return ready, out


def _runner(
    work: Work, address: str | None, meter: PoolMeter, stages: Stages
) -> tuple[Publisher, RunUnits]:
    """Who publishes, and who computes; where one process does everything, that is this one."""
    if not work.budget.tasks:
        return local.LocalPublisher(work), partial(local.run_units, work)
    publishers = Publishers(work, stages.publish)
    return publishers, Flow(work, publishers, address, meter, stages).run_units


def _carry_out(tracker: Tracker, run_units: RunUnits) -> None:
    """Computes what has no outcome, and publishes."""
    tracker.begin()
    tracker.poll()  # a first line: Ray and the model take a while
    if not tracker.is_done:
        tracker.tally.retries += run_units(tracker.open_units, tracker.poll)
    tracker.close()


def _check_time(
    tracker: Tracker, work: Work, shards: Sequence[Shard], max_hours: float | None
) -> None:
    """Raises UnfinishedError where the time was up before all was done."""
    left = len(tracker.open_units())
    if left and work.out_of_time:
        raise UnfinishedError(
            f"out of time: the {max_hours:g} h of --max-hours are over, and {left:,} of"
            f" {sum(len(shard.units) for shard in shards):,} units are left; what is done is"
            " kept, the same command resumes the run"
        )

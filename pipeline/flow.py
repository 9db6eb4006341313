"""The stages on Ray Data, in rounds until every unit has an outcome.

A round computes what has none. What is lost with a process or a node gets none and is left to the
next round; what is still without one after the last is taken up alone. Which units have an outcome
is not for this room to know: it asks.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Sequence

import ray.data
from ray.data import ActorPoolStrategy, DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.exceptions import RayActorError

from pipeline.alone import segment_alone
from pipeline.cluster import TASK_CPUS, connected
from pipeline.errors import CheckpointError, TransientError, UnfinishedError, UsageError
from pipeline.rows import (
    LOADING_DEATHS,
    UNITS_PER_READ_TASK,
    ReadStage,
    SegmentStage,
    UnitSink,
    UnitSource,
)
from pipeline.scene import Unit
from pipeline.settings import Execution
from pipeline.stages import Work
from pipeline.verdict import LOG

ROUNDS = 2
STORE_FRACTION = 2.0
"""Of the object store that Ray Data may plan with. It gives a quarter of that to the reads: with 2,
these fill half of the store, two rows for each replica, before they have to wait."""
POLL_S = 1.0
STOP_S = 30.0
"""Ray Data needs a moment to end in order; ending the cluster under it would end this process."""
TRIES_OF_A_TASK = 1
"""Beyond the first, where its process or node is lost. (By itself Ray Data tries for ever.)"""
STALLED_UNITS = 8
"""Units that no store would serve, before the round is given up: patience has run out for each."""

Poll = Callable[[], None]
_STOP = threading.Event()


def run_units(
    work: Work, open_units: Callable[[], list[Unit]], execution: Execution, poll: Poll
) -> int:
    """Computes the units without an outcome on a Ray cluster and calls `poll` about once a second.

    Returns how often writing their files was tried again. Units may be left open. Raises
    UnfinishedError where the rest would fail, too; TransientError where a store does not answer.
    """
    division = work.division
    memory = (division.schedulable_bytes, division.store_bytes)
    retries, why = 0, ""
    with connected(execution.address, work.replicas, *memory):
        for number in range(ROUNDS):
            units = open_units()
            if units and number:
                LOG.warning("units without an outcome: %d; once more%s", len(units), why)
            if units:
                errors = _round(work, units, poll)
                retries, why = retries + errors.retries, errors.first()
        _each_alone(work, open_units(), poll)
    return retries


def _each_alone(work: Work, units: Sequence[Unit], poll: Poll) -> None:
    stalled: list[TransientError] = []
    for unit in units:
        LOG.warning("a unit of %s is tried alone", unit.blocks[0].scene.url)
        try:
            segment_alone(work, unit)
        except TransientError as error:
            stalled.append(error)
            if len(stalled) == STALLED_UNITS:
                break
        poll()
    if stalled:
        raise stalled[0]


def _round(work: Work, units: Sequence[Unit], poll: Poll) -> _Errors:
    dataset = _dataset(work, units)
    errors = _Errors()
    writer = threading.Thread(target=errors.kept, args=(dataset, work), daemon=True)
    log = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
    log.addFilter(errors)
    writer.start()
    try:
        while writer.is_alive():
            writer.join(POLL_S)
            poll()
            errors.check()
    except KeyboardInterrupt:
        LOG.warning("stopping")
        raise
    finally:
        if writer.is_alive():  # what it will say of being stopped is no news
            logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
        _STOP.set()
        writer.join(STOP_S)
        _STOP.clear()
        log.removeFilter(errors)
    poll()
    errors.check()
    return errors


class _Errors(logging.Filter):
    """What became of units that got no outcome. Ray Data drops their rows and only logs why."""

    def __init__(self) -> None:
        super().__init__()
        self.retries = 0
        """Of the writes."""
        self._stalled: list[TransientError] = []
        self._fatal: Exception | None = None
        self._lost: BaseException | None = None
        """The first error that is none of ours."""

    def kept(self, dataset: ray.data.Dataset, work: Work) -> None:
        """Runs the dataset; what ends it is raised by `check`, in the thread that waits."""
        sink = UnitSink(work)
        try:
            dataset.write_datasink(
                sink,
                ray_remote_args={
                    "num_cpus": TASK_CPUS,
                    "memory": work.need.writer_bytes,
                    "max_retries": TRIES_OF_A_TASK,
                },
            )
        except Exception as error:  # noqa: BLE001
            if not _STOP.is_set():
                self._fatal = _ours(error) or _given_up(error, self.first())
        self.retries = sink.retries

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        ours = _ours(error)
        if isinstance(ours, TransientError):
            self._stalled.append(ours)
        elif ours is not None:
            self._fatal = self._fatal or ours
        else:
            self._lost = self._lost or error
        return False  # the console need not have it: the next round sees to it

    def first(self) -> str:
        """The first reason why a unit got no outcome, as the end of a sentence."""
        lost = self._lost or next(iter(self._stalled), None)
        return f". The first was lost with {_root(lost)}" if lost else ""

    def check(self) -> None:
        """Raises what makes it useless to go on."""
        if self._fatal is not None:
            raise self._fatal
        if len(self._stalled) >= STALLED_UNITS:
            raise self._stalled[0]


def _ours(error: BaseException | None) -> Exception | None:
    """The error of our own in a chain of Ray's."""
    while error is not None:
        if isinstance(error, (UnfinishedError, UsageError, CheckpointError)):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def _root(error: BaseException) -> str:
    """What has caused it, in a few words."""
    while (deeper := getattr(error, "cause", None) or error.__cause__) is not None:
        error = deeper
    lines = str(error).strip().splitlines() or ["no details"]
    # A dead actor's cause, as Ray gives it: a traceback as text.
    what = lines[-1] if isinstance(error, RayActorError) else lines[0]
    return f"{type(error).__name__}: {what.strip()[:300]}"


def _given_up(error: Exception, first: str) -> UnfinishedError:
    # What is lost with a replica at work is for the next round: this one was loading.
    dead = isinstance(error, RayActorError)
    what = "no replica could be loaded" if dead else "Ray stopped before every unit was done"
    return UnfinishedError(f"{what} ({_root(error)}){first}; the same command goes on from here")


class _Stop(ExecutionCallback):
    """Ends Ray Data's own loop when it is asked to."""

    def on_execution_step(self, executor: object) -> None:
        del executor
        if _STOP.is_set():
            raise InterruptedError("stopped")


def _dataset(work: Work, units: Sequence[Unit]) -> ray.data.Dataset:
    context = DataContext.get_current()
    context.target_max_block_size = 1  # one row per Ray block
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a wrapper loses its cause between processes
    context.max_errored_blocks = -1  # a lost row is for the next round, not the end of this one
    context.max_consecutive_actor_init_deaths = LOADING_DEATHS
    # Longer than anything that is guarded may take; a cluster may also have to grow first.
    context.execution_no_progress_timeout_s = int(max(7200, 4 * work.unit_timeout_s))
    context.custom_execution_callback_classes = [_Stop]
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # That every unit of a round is lost before it reaches a replica is no misconfiguration.
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
    if not work.division.machine.nodes_bytes:  # the store is ours and made for this job
        context.override_object_store_memory_limit_fraction = STORE_FRACTION
    on_gpu = work.job.device == "cuda"
    source = ray.data.read_datasource(
        UnitSource(units), override_num_blocks=-(-len(units) // UNITS_PER_READ_TASK)
    )
    with warnings.catch_warnings():
        # Ray 2.64 will want these arguments in another place, which 2.60 does not have yet.
        warnings.simplefilter("ignore")
        pixels = source.map(
            ReadStage(work),
            num_cpus=TASK_CPUS,
            memory=work.need.reader_bytes,
            max_retries=TRIES_OF_A_TASK,
        )
        return pixels.map_batches(
            SegmentStage,
            fn_constructor_kwargs={"work": work},
            batch_size=1,
            batch_format="numpy",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(
                size=min(work.replicas, len(units)), max_tasks_in_flight_per_actor=2
            ),
            num_cpus=0 if on_gpu else 1,
            num_gpus=1 if on_gpu else 0,
            memory=work.need.replica_bytes,
            max_restarts=-1,
            max_task_retries=TRIES_OF_A_TASK,
        )

"""The stages on Ray Data, in rounds until every unit has an outcome.

A round computes what has none. What is lost with a process or a node gets none and is left to the
next round; what is still without one after the last is taken up alone. Which units have an outcome
is not for this room to know: it asks.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.cluster.isolation import segment_alone
from pipeline.cluster.metrics import Waiting
from pipeline.cluster.publishers import Publishers
from pipeline.cluster.ray_errors import STALLED_UNITS, Losses
from pipeline.cluster.session import connected
from pipeline.cluster.shared_paths import check_seen
from pipeline.cluster.stages import (
    LOADING_DEATHS,
    UNITS_PER_READ_TASK,
    ReadStage,
    SegmentStage,
    UnitSink,
    UnitSource,
)
from pipeline.errors import LOG, TransientError
from pipeline.planning.machine import TASK_CPUS
from pipeline.stages import Work
from pipeline.unit import Unit

ROUNDS = 2
STORE_FRACTION = 2.0
"""Of the object store that Ray Data may plan with. It gives a quarter of that to the reads: with 2,
these fill half of the store, two rows for each replica, before they have to wait."""
POLL_S = 1.0
SAY_S = 30.0
"""Between two notes on what the end of a run waits for."""
STOP_S = 30.0
"""Ray Data needs a moment to end in order; ending the cluster under it would end this process."""
TRIES_OF_A_TASK = 1
"""Beyond the first, where its process or node is lost. (By itself Ray Data tries for ever.)"""

Poll = Callable[[], None]
_STOP = threading.Event()


def run_units(
    work: Work,
    publishers: Publishers,
    address: str | None,
    open_units: Callable[[], list[Unit]],
    poll: Poll,
) -> int:
    """Computes the units without an outcome on a Ray cluster, the one at the address or one of its
    own, and publishes; calls `poll` about once a second.

    Returns how often writing units' files was tried again. Units may be left open. Raises
    UnfinishedError where the rest would fail, too; TransientError where a store does not answer.
    """
    division = work.division
    if work.out_of_time and not publishers.left:
        return 0
    memory = division.schedulable_bytes + division.publishing_bytes
    with (
        connected(address, division.cpus, memory, division.store_bytes),
        publishers.at_work(),
    ):
        if address:
            check_seen([work.output, work.job.checkpoint, *_inputs(open_units()[:1])])
        try:
            retries = _rounds(work, open_units, poll)
        except TransientError:  # of some units' store: the others' shards are complete
            _publish_rest(publishers, poll)
            raise
        _publish_rest(publishers, poll)
    return retries


def _rounds(work: Work, open_units: Callable[[], list[Unit]], poll: Poll) -> int:
    retries, why = 0, ""
    for number in range(ROUNDS):
        units = open_units()
        if work.out_of_time:
            return retries
        if units and number:
            LOG.warning("units without an outcome: %d; once more%s", len(units), why)
        if units:
            again, why = _round(work, units, poll)
            retries += again
    if not work.out_of_time:
        _each_alone(work, open_units(), poll)
    return retries


def _publish_rest(publishers: Publishers, poll: Poll) -> None:
    """Until no publication is left: they may be repeated a few times, and then are an error."""
    began = time.monotonic()
    said_s = began
    while publishers.left:
        poll()
        publishers.wait(POLL_S)
        if time.monotonic() - said_s > SAY_S:
            said_s = time.monotonic()
            since = publishers.left, said_s - began
            LOG.warning("shards that are still being published: %d, since %.0f s", *since)


def _inputs(units: Sequence[Unit]) -> list[str]:
    return [block.scene.url for unit in units for block in unit.blocks]


def _each_alone(work: Work, units: Sequence[Unit], poll: Poll) -> None:
    stalled: list[TransientError] = []
    for unit in units:
        if work.out_of_time:
            break
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


def _round(work: Work, units: Sequence[Unit], poll: Poll) -> tuple[int, str]:
    """How often a write was tried again, and why the first unit got no outcome."""
    dataset, sink, losses = _dataset(work, units), UnitSink(work), Losses()
    ended = threading.Event()  # not is_alive: a join that Ctrl-C interrupts says it has (bpo-45274)

    def write() -> None:
        try:
            dataset.write_datasink(
                sink,
                ray_remote_args={
                    "num_cpus": TASK_CPUS,
                    "memory": work.need.writer_bytes,
                    "max_retries": TRIES_OF_A_TASK,
                },
            )
        except Exception as error:  # noqa: BLE001 - raised by check, in the thread that waits
            if not _STOP.is_set():
                losses.end(error)
        finally:
            ended.set()

    log = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
    log.addFilter(losses)
    threading.Thread(target=write, daemon=True).start()
    try:
        while not ended.wait(POLL_S):
            poll()
            losses.check()
    except KeyboardInterrupt:
        LOG.warning("stopping")
        raise
    finally:
        if not ended.is_set():  # what it will say of being stopped is no news
            logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
        _STOP.set()
        ended.wait(STOP_S)
        _STOP.clear()
        log.removeFilter(losses)
    poll()
    losses.check()
    return sink.retries, losses.first()


class _Stop(ExecutionCallback):
    """Ends Ray Data's own loop when it is asked to, and begins no reads when time is up."""

    until = math.inf

    def on_execution_step(self, executor: Any) -> None:
        if _STOP.is_set():
            raise InterruptedError("stopped")
        if time.time() >= self.until:
            for operator, state in executor._topology.items():
                if ReadStage.__name__ in operator.name:  # its tasks would only say so, one by one
                    for waiting in state.input_queues:
                        waiting.clear()


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
    _Stop.until = work.until
    Waiting.stage = SegmentStage.__name__
    context.custom_execution_callback_classes = [_Stop, Waiting]
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # That every unit of a round is lost before it reaches a replica is no misconfiguration.
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
    limits = ExecutionResources.for_limits()
    if not work.division.machine.nodes_bytes:  # this Ray is ours and made for this job
        context.override_object_store_memory_limit_fraction = STORE_FRACTION
        cpus, memory = work.division.cpus, work.division.schedulable_bytes
        limits = ExecutionResources.for_limits(cpu=cpus, memory=memory)  # the rest is to publish
    context.execution_options.resource_limits = limits
    on_gpu, pool = work.job.device == "cuda", work.division.machine
    source = ray.data.read_datasource(
        UnitSource(units), override_num_blocks=-(-len(units) // UNITS_PER_READ_TASK)
    )
    with warnings.catch_warnings():
        # Ray 2.64 will want these arguments in another place, which 2.60 does not have yet.
        warnings.simplefilter("ignore")
        pixels = source.flat_map(
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
                min_size=min(pool.fewest, len(units)),
                max_size=min(pool.replicas, len(units)),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=0 if on_gpu else 1,
            num_gpus=pool.gpus_per_replica,
            memory=work.need.replica_bytes,
            max_restarts=-1,
            max_task_retries=TRIES_OF_A_TASK,
        )

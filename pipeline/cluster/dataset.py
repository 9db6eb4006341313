"""The flow as a Ray Data dataset: which operators, with which resources, under which settings.

Knows what each stage asks of Ray; nothing of what becomes of a unit.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.cluster.replica_actor import LOADING_DEATHS
from pipeline.cluster.stages import Stages, UnitSink, UnitSource
from pipeline.planning.machine import TASK_CPUS
from pipeline.stages import Work
from pipeline.unit import Unit

UNITS_PER_READ_TASK = 64
STORE_FRACTION = 2.0
"""Share of the object store that Ray Data may budget. It grants reads a quarter of the budget, so
2.0 lets them fill half of the store (two rows per replica) before they block."""
TASK_RETRIES = 1
"""Retries of a task whose process or node was lost; Ray Data's default is unlimited."""


def segmented_units(
    work: Work,
    stages: Stages,
    units: Sequence[Unit],
    callbacks: Sequence[type[ExecutionCallback]],
) -> Dataset:
    """The units, to be read and segmented when the dataset is executed; a row each, see
    `packing`."""
    _configure_ray_data(work, callbacks)
    source = ray.data.read_datasource(
        UnitSource(units), override_num_blocks=-(-len(units) // UNITS_PER_READ_TASK)
    )
    on_gpu, pool = work.job.device == "cuda", work.budget.machine
    with warnings.catch_warnings():
        # Ray 2.64 will want these arguments in another place, which 2.60 does not have yet.
        warnings.simplefilter("ignore")
        pixels = source.flat_map(
            stages.read(work),
            num_cpus=TASK_CPUS,
            memory=work.need.reader_bytes,
            max_retries=TASK_RETRIES,
        )
        return pixels.map_batches(
            stages.segment,
            fn_constructor_kwargs={"work": work},
            batch_size=1,
            batch_format="numpy",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(
                min_size=min(pool.required_replicas, len(units)),
                max_size=min(pool.replicas, len(units)),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=0 if on_gpu else 1,
            num_gpus=pool.gpus_per_replica,
            memory=work.need.replica_bytes,
            max_restarts=-1,
            max_task_retries=TASK_RETRIES,
        )


def write_units(dataset: Dataset, sink: UnitSink, work: Work) -> None:
    """Execute the dataset and write each unit's file. Raises what Ray Data raises."""
    dataset.write_datasink(
        sink,
        ray_remote_args={
            "num_cpus": TASK_CPUS,
            "memory": work.need.writer_bytes,
            "max_retries": TASK_RETRIES,
        },
    )


def _configure_ray_data(work: Work, callbacks: Sequence[type[ExecutionCallback]]) -> None:
    """Set this process's context, of which a dataset takes a copy when it is made."""
    context = DataContext.get_current()
    context.target_max_block_size = 1  # one row per Ray block
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a wrapper loses its cause between processes
    context.max_errored_blocks = -1  # a lost row is for the next round, not the end of this one
    context.max_consecutive_actor_init_deaths = LOADING_DEATHS
    # Longer than any stage's time limit; a cluster may also have to grow first.
    context.execution_no_progress_timeout_s = int(max(7200, 4 * work.unit_timeout_s))
    context.custom_execution_callback_classes = list(callbacks)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # That every unit of a round is lost before it reaches a replica is no misconfiguration.
    warnings.filterwarnings("ignore", "The minimum number of concurrent actors", UserWarning)
    limits = ExecutionResources.for_limits()
    if not work.budget.machine.nodes_bytes:  # this Ray is ours and made for this job
        context.override_object_store_memory_limit_fraction = STORE_FRACTION
        cpus, memory = work.budget.cpus, work.budget.schedulable_bytes
        limits = ExecutionResources.for_limits(cpu=cpus, memory=memory)  # the rest is to publish
    context.execution_options.resource_limits = limits

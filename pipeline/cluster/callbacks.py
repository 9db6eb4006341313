"""What Ray Data reports at each step of its loop, and what a run answers.

Ray Data takes callback classes, not objects, and copies its context, but no class in it. So each
round makes classes of its own, closed over objects of its run. Ray pickles the context for its
workers, too: these objects hold plain values and no locks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback


@dataclass
class PoolMeter:
    """How much a run uses its pool of replicas."""

    replica_s: float = 0.0
    """Seconds of all replicas in all rounds, each counted from when its model was loaded."""
    waiting_units: int = 0
    """Units that have been read and wait for a replica now."""
    connected_s: float | None = None
    """When Ray was ready, on the monotonic clock; None: it is not yet."""


@dataclass
class Control:
    """What a round tells Ray Data's loop."""

    until: float
    """When no more reads start, in seconds since 1970."""
    stopping: bool = False
    """Whether the loop is to end now."""


def control_callback(control: Control, read_stage: str) -> type[ExecutionCallback]:
    """A class that ends Ray Data's loop when told to, and drops the reads that have not started
    when the time is up. read_stage: a part of the name of the operator that reads."""

    class ControlCallback(ExecutionCallback):
        def on_execution_step(self, executor: Any) -> None:
            if control.stopping:
                raise InterruptedError("stopped")
            if time.time() < control.until:
                return
            for operator, state in executor._topology.items():
                if read_stage in operator.name:  # its tasks would only say so, one by one
                    for queue in state.input_queues:
                        queue.clear()

    return ControlCallback


def meter_callback(meter: PoolMeter, segment_stage: str) -> type[ExecutionCallback]:
    """A class that keeps the meter up to date. segment_stage: a part of the name of the operator
    whose actors are the replicas."""

    class MeterCallback(ExecutionCallback):
        def __init__(self) -> None:
            self._seen_s = time.monotonic()

        def on_execution_step(self, executor: Any) -> None:
            before_s, self._seen_s = self._seen_s, time.monotonic()
            meter.waiting_units = 0
            for operator, state in executor._topology.items():
                if segment_stage in operator.name:
                    meter.waiting_units += state.total_enqueued_input_blocks()
                    running = operator.get_actor_info().running
                    meter.replica_s += running * (self._seen_s - before_s)

        def after_execution_succeeds(self, executor: Any) -> None:
            del executor
            meter.waiting_units = 0

        def after_execution_fails(self, executor: Any, error: Exception) -> None:
            del executor, error
            meter.waiting_units = 0

    return MeterCallback

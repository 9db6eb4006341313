"""What a run is doing, as Prometheus scrapes it from Ray's own endpoint on each node.

Ray puts `ray_` before the names. Without a cluster, or where the cluster exports nothing (Ray
without ray[default]), nothing is done. Every metric is of one output: several drivers may share a
cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.metrics import Counter, Gauge

from pipeline.progress import Progress
from pipeline.unit import GpuUse

GAUGES: dict[str, tuple[str, Callable[[Progress], float]]] = {
    "swath_planned_units": ("Units of the plan.", lambda p: p.total_units),
    "swath_done_units": ("Units with an outcome, by any run.", lambda p: p.done_units),
    "swath_planned_pixels": ("Pixels of the plan.", lambda p: p.total_px),
    "swath_segmented_pixels": ("Pixels segmented, by any run.", lambda p: p.done_px),
    "swath_quarantined_pixels": ("Planned pixels in quarantine.", lambda p: p.quarantined_px),
    "swath_quarantined_inputs": ("Inputs in quarantine.", lambda p: p.quarantined),
    "swath_pixels_per_second": (
        "Pixels that this run segments, on average since its first unit.",
        lambda p: p.megapixels_per_s * 1e6,
    ),
    "swath_waiting_units": (
        "Units that are read and wait for a replica.",
        lambda _: Waiting.units,
    ),
}
COUNTERS: dict[str, tuple[str, Callable[[Progress], float]]] = {
    "swath_units_total": ("Units that this run computed.", lambda p: p.computed_units),
    "swath_pixels_total": ("Pixels that this run segmented.", lambda p: p.computed_px),
    "swath_retries_total": (
        "Reads and writes that this run tried again, as their units come to an end.",
        lambda p: p.retries,
    ),
}
GPU_MEMORY = "swath_gpu_memory_bytes"
TAGS = ("output",)


class Metrics:
    """Of one run. Called with each Progress, which it passes on."""

    def __init__(self, output: str, then: Callable[[Progress], None] | None) -> None:
        """output: its URL, which holds no credentials."""
        self._then = then
        self._tags = {"output": output}
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._counted = dict.fromkeys(COUNTERS, 0.0)

    def __call__(self, progress: Progress) -> None:
        self._export(progress)
        if self._then:
            self._then(progress)

    def _export(self, progress: Progress) -> None:
        if not ray.is_initialized():  # before the cluster, after it, or without one
            return
        if not self._gauges:
            self._gauges = {name: Gauge(name, text, TAGS) for name, (text, _) in GAUGES.items()}
            self._counters = {
                name: Counter(name, text, TAGS) for name, (text, _) in COUNTERS.items()
            }
        for name, (_, value) in GAUGES.items():
            self._gauges[name].set(value(progress), self._tags)
        for name, (_, value) in COUNTERS.items():
            more, self._counted[name] = value(progress) - self._counted[name], value(progress)
            if more > 0:  # Ray refuses to count nothing
                self._counters[name].inc(more, self._tags)


class Waiting(ExecutionCallback):
    """Told by Ray Data at each step: how many units are read and wait for a replica, and how many
    replicas there are."""

    stage = ""
    """The operator before which they wait, by a part of its name."""
    units = 0
    replica_s = 0.0
    """Summed over the replicas and rounds of a run, each from when its model was loaded."""

    def __init__(self) -> None:
        self._seen_s = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        before_s, self._seen_s = self._seen_s, time.monotonic()
        Waiting.units = 0
        for operator, state in executor._topology.items():
            if self.stage in operator.name:
                Waiting.units += state.total_enqueued_input_blocks()
                running = operator.get_actor_info().running
                Waiting.replica_s += running * (self._seen_s - before_s)

    def after_execution_succeeds(self, executor: Any) -> None:
        del executor
        Waiting.units = 0

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        del error
        self.after_execution_succeeds(executor)


class GpuMemory:
    """Of one replica, in its actor."""

    def __init__(self, output: str) -> None:
        text = "Most memory of its GPU that a replica held at once."
        self._gauge = Gauge(GPU_MEMORY, text, TAGS).set_default_tags({"output": output})

    def __call__(self, use: GpuUse | None) -> None:
        if use is not None:
            self._gauge.set(use.peak_bytes)

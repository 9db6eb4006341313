"""What a run is doing, as Prometheus scrapes it from Ray's own endpoint on each node.

Ray puts `ray_` before the names. Without a cluster, or if the cluster exports nothing (Ray without
ray[default]), nothing is done. Every metric is tagged with its output: several drivers may share a
cluster.
"""

from __future__ import annotations

from collections.abc import Callable

import ray
from ray.util.metrics import Counter, Gauge

from pipeline.cluster.callbacks import PoolMeter
from pipeline.progress import Progress
from pipeline.unit import GpuUse

Value = Callable[[Progress], float]
GAUGES: dict[str, tuple[str, Value]] = {
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
}
COUNTERS: dict[str, tuple[str, Value]] = {
    "swath_units_total": ("Units that this run computed.", lambda p: p.computed_units),
    "swath_pixels_total": ("Pixels that this run segmented.", lambda p: p.computed_px),
    "swath_retries_total": (
        "Reads and writes that this run retried, counted as their units finish.",
        lambda p: p.retries,
    ),
}
WAITING_UNITS = "swath_waiting_units"
GPU_MEMORY = "swath_gpu_memory_bytes"
TAGS = ("output",)


class Metrics:
    """The metrics of one run. Called with each Progress, which it passes on."""

    def __init__(
        self, output: str, meter: PoolMeter, on_progress: Callable[[Progress], None] | None
    ) -> None:
        """output: its URL, which holds no credentials."""
        self._meter = meter
        self._on_progress = on_progress
        self._tags = {"output": output}
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._counted = dict.fromkeys(COUNTERS, 0.0)

    def __call__(self, progress: Progress) -> None:
        self._export(progress)
        if self._on_progress:
            self._on_progress(progress)

    def _export(self, progress: Progress) -> None:
        if not ray.is_initialized():  # before the cluster, after it, or without one
            return
        if not self._gauges:
            self._register()
        for name, (_, value) in GAUGES.items():
            self._gauges[name].set(value(progress), self._tags)
        self._gauges[WAITING_UNITS].set(self._meter.waiting_units, self._tags)
        for name, (_, value) in COUNTERS.items():
            more, self._counted[name] = value(progress) - self._counted[name], value(progress)
            if more > 0:  # Ray refuses to count nothing
                self._counters[name].inc(more, self._tags)

    def _register(self) -> None:
        self._gauges = {name: Gauge(name, text, TAGS) for name, (text, _) in GAUGES.items()}
        text = "Units that are read and wait for a replica."
        self._gauges[WAITING_UNITS] = Gauge(WAITING_UNITS, text, TAGS)
        self._counters = {name: Counter(name, text, TAGS) for name, (text, _) in COUNTERS.items()}


class GpuMemoryGauge:
    """The GPU memory of one replica, exported by its actor."""

    def __init__(self, output: str) -> None:
        text = "Most memory of its GPU that a replica held at once."
        self._gauge = Gauge(GPU_MEMORY, text, TAGS).set_default_tags({"output": output})

    def record(self, use: GpuUse | None) -> None:
        if use is not None:
            self._gauge.set(use.peak_bytes)

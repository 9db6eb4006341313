"""Measures how long a replica takes for a window on this machine.

As many replicas as the run would have here, each in a process of its own, segment random pixels at
the same time with the job's own settings: replicas that share memory and cores are slower than one
alone. On CPUs other types of arithmetic are measured beside the job's, in turns: which one is the
fastest depends on the processor (docs/speed.md).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from pipeline.engine.device import local_devices
from pipeline.engine.replica import Replica
from pipeline.errors import LOG, UsageError
from pipeline.estimate import Rate
from pipeline.grid import WindowGrid
from pipeline.processes.fresh_process import run_in_fresh_process
from pipeline.processes.sandbox import Limits
from pipeline.processes.worker_process import ADDRESS_SPACE_BYTES
from pipeline.scene import Rect, Scene
from pipeline.settings import Settings
from pipeline.stages import Segmentation
from pipeline.unit import Block, Pixels, ReadUnit, Unit

MEASURED_S = 3.0
"""The shortest time that is measured for each type: other processes come and go."""
CPU_DTYPES = ("float32", "bfloat16")
"""The types that may be a CPU's fastest."""

Measured = dict[str, tuple[int, float]]
"""Type -> the number of windows computed in it, and the seconds that they took."""


def calibrate(segmentation: Segmentation, channels: int) -> dict[str, Rate]:
    """Measure the rates by type: the job's own, and on a CPU those of CPU_DTYPES. Takes some
    seconds, and with a large network on a CPU a minute.

    channels: of the network. Raises UsageError if the job's replicas run on another kind of device
    than this machine's, and what a replica raises.
    """
    job, (device, count) = segmentation.job, local_devices()
    if device != job.device:
        raise UsageError(
            f"--calibrate measures this machine's {device}, but the replicas run on"
            f" {job.device}: leave it out, or plan on one of the cluster's machines"
        )
    # Each GPU has its own memory and clock, which its replicas share; CPU cores share both.
    sharing = segmentation.sharing if device == "cuda" else count
    replicas = min(segmentation.replicas, sharing)
    LOG.warning("measuring how long a window takes here, replicas at once: %d", replicas)
    with ThreadPoolExecutor(replicas) as pool:
        measure = partial(_measure_in_process, segmentation)
        results = list(pool.map(measure, [channels] * replicas))
    rates = {}
    for dtype in results[0]:
        windows = sum(result[dtype][0] for result in results)
        seconds = sum(result[dtype][1] for result in results)
        rates[dtype] = Rate(seconds / windows, True, replicas, windows // replicas)
    return rates


def with_dtype(segmentation: Segmentation, dtype: str) -> Segmentation:
    """The same segmentation in another type."""
    job = segmentation.job
    return replace(segmentation, job=replace(job, settings=replace(job.settings, dtype=dtype)))


def _measure_in_process(segmentation: Segmentation, channels: int) -> Measured:
    """See `_measure`; in a process of its own."""
    item_s = segmentation.unit_timeout_s
    limits = Limits(1, 1, item_s=item_s, memory_bytes=ADDRESS_SPACE_BYTES)
    failed = "--calibrate: the replica could not be measured"
    return run_in_fresh_process(partial(_measure, segmentation), channels, limits, failed)


def _measure(segmentation: Segmentation, channels: int) -> Measured:
    """Compute windows in each type, in turns."""
    settings, device = segmentation.job.settings, segmentation.job.device
    dtypes = dict.fromkeys((settings.dtype, *(CPU_DTYPES if device == "cpu" else ())))
    jobs = {dtype: with_dtype(segmentation, dtype).job for dtype in dtypes}
    replicas = {
        dtype: Replica(job, segmentation.access, segmentation.sharing)
        for dtype, job in jobs.items()
    }
    # The time of its only thread: a run has the cores to itself, which a plan may not have.
    clock = time.process_time if device == "cpu" else time.perf_counter
    columns = settings.batch or 1
    for replica in replicas.values():  # the first windows are slower
        replica.segment(random_unit(settings, channels, columns, 1))
    unit = random_unit(settings, channels, max(2, columns), 2)
    windows, seconds = dict.fromkeys(dtypes, 0), dict.fromkeys(dtypes, 0.0)
    until = time.perf_counter() + MEASURED_S * len(dtypes)
    while not all(windows.values()) or time.perf_counter() < until:
        for dtype, replica in replicas.items():
            started = clock()
            windows[dtype] += replica.segment(unit).windows
            seconds[dtype] += clock() - started
    return {dtype: (windows[dtype], seconds[dtype]) for dtype in dtypes}


def random_unit(settings: Settings, channels: int, columns: int, rows: int) -> ReadUnit:
    """A unit of random uint8 pixels under this number of windows, each with as much to blend as
    inside a scene."""
    window, stride = settings.window, settings.stride
    width, height = ((count - 1) * stride + window for count in (columns, rows))
    core = Rect(0, 0, columns * stride, rows * stride)
    scene = _scene(width, height, channels)
    rect = WindowGrid.over(scene, settings).read_rect(core)
    values_CHW = np.random.default_rng(0).integers(
        0, 256, (channels, rect.height, rect.width), dtype=np.uint8
    )
    pixels = Pixels(values_CHW, np.ones((rect.height, rect.width), bool), rect)
    return ReadUnit(Unit("", (Block(scene, core),)), (pixels,), read_s=0.0)


def _scene(width: int, height: int, channels: int) -> Scene:
    return Scene(
        scene_id="random",
        url="random",
        version="",
        sidecars=(),
        width=width,
        height=height,
        bands=tuple(range(1, channels + 1)),
        dtype="uint8",
        nodata=None,
        crs=None,
        transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        datetime=None,
        striped=False,
    )

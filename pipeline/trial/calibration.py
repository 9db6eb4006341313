"""Measures how long a replica takes for a window on this machine.

As many replicas as the run would have here, each in a process of its own, segment random pixels at
the same time with the job's own settings: replicas that share memory and cores are slower than one
alone.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
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
"""The shortest time that is measured: other processes come and go."""


def calibrate(segmentation: Segmentation, channels: int) -> Rate:
    """Measure the rate. Takes some seconds, and with a large network on a CPU a minute.

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
    windows = sum(count for count, _ in results)
    seconds = sum(seconds for _, seconds in results)
    return Rate(seconds / windows, True, replicas, windows // replicas)


def _measure_in_process(segmentation: Segmentation, channels: int) -> tuple[int, float]:
    """See `_measure`; in a process of its own."""
    item_s = segmentation.unit_timeout_s
    limits = Limits(1, 1, item_s=item_s, memory_bytes=ADDRESS_SPACE_BYTES)
    failed = "--calibrate: the replica could not be measured"
    return run_in_fresh_process(partial(_measure, segmentation), channels, limits, failed)


def _measure(segmentation: Segmentation, channels: int) -> tuple[int, float]:
    """The number of windows computed, and the seconds that they took."""
    job = segmentation.job
    settings, replica = job.settings, Replica(job, segmentation.access, segmentation.sharing)
    # The time of its only thread: a run has the cores to itself, which a plan may not have.
    clock = time.process_time if job.device == "cpu" else time.perf_counter
    columns = settings.batch or 1
    replica.segment(random_unit(settings, channels, columns, 1))  # the first windows are slower
    unit = random_unit(settings, channels, max(2, columns), 2)
    windows, seconds, until = 0, 0.0, time.perf_counter() + MEASURED_S
    while not windows or time.perf_counter() < until:
        started = clock()
        windows += replica.segment(unit).windows
        seconds += clock() - started
    return windows, seconds


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

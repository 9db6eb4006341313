"""How long a replica takes for a window, measured on this machine.

As many replicas at once as the run would have here, each in a process of its own, segment random
pixels with the job's own settings: what shares memory and cores is slower than what is alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from pipeline.engine.device import devices_here
from pipeline.engine.replica import Replica
from pipeline.errors import LOG, UsageError
from pipeline.estimate import Rate
from pipeline.grid import WindowGrid
from pipeline.processes.fresh_process import ADDRESS_SPACE_BYTES, run_in_fresh_process
from pipeline.processes.sandbox import Limits
from pipeline.scene import Rect, Scene
from pipeline.settings import Settings
from pipeline.stages import Segmentation
from pipeline.unit import Block, Pixels, ReadUnit, Unit

MEASURED_S = 3.0
"""At least: other processes come and go."""


def calibrate(work: Segmentation, channels: int) -> Rate:
    """Takes some seconds, and with a large network on a CPU a minute.

    Raises UsageError where the job's replicas do not run on this machine's kind of device, and what
    a replica raises.
    """
    device, count = devices_here()
    if device != work.job.device:
        raise UsageError(
            f"--calibrate measures this machine's {device}, but the replicas run on"
            f" {work.job.device}: leave it out, or plan on one of the cluster's machines"
        )
    # Each GPU has its own memory and clock; its replicas and CPU cores share both.
    sharing = work.budget.machine.sharing if device == "cuda" else count
    replicas = min(work.replicas, sharing)
    LOG.warning("measuring how long a window takes here, replicas at once: %d", replicas)
    with ThreadPoolExecutor(replicas) as pool:
        found = list(pool.map(partial(_apart, work), [channels] * replicas))
    windows = sum(count for count, _ in found)
    seconds = sum(seconds for _, seconds in found)
    return Rate(seconds / windows, True, replicas, windows // replicas)


def _apart(work: Segmentation, channels: int) -> tuple[int, float]:
    """What `_measured` says in a process of its own."""
    limits = Limits(1, 1, item_s=work.unit_timeout_s, memory_bytes=ADDRESS_SPACE_BYTES)
    failed = "--calibrate: the replica could not be measured"
    return run_in_fresh_process(partial(_measured, work), channels, limits, failed)


def _measured(work: Segmentation, channels: int) -> tuple[int, float]:
    """Windows that were computed, and the seconds that they took."""
    settings, replica = work.job.settings, Replica(work.job, work.access, work.sharing)
    # Its one thread's own time: a run has the cores to itself, and whoever plans may not.
    clock = time.process_time if work.job.device == "cpu" else time.perf_counter
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
    """Random pixels under so many windows, of which each has as much to blend as within a scene."""
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
    bands: Sequence[int] = range(1, channels + 1)
    return Scene(
        scene_id="random",
        url="random",
        version="",
        sidecars=(),
        width=width,
        height=height,
        bands=tuple(bands),
        dtype="uint8",
        nodata=None,
        crs=None,
        transform=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        datetime=None,
        striped=False,
    )

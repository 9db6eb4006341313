"""Stages with a clock, for `overlap.py` and `whole.py`; Ray's workers import them from here.

Each leaves a line of JSON per unit in the file that an environment variable names.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

from pipeline.cluster.stages import SegmentStage
from pipeline.failure import Failure
from pipeline.grid import WindowGrid, mask_tiles
from pipeline.stages import Work
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Stitched, Unit

LOG = "SWATH_OVERLAP_LOG"
SECONDS = "SWATH_OVERLAP_SECONDS"
CLASSES = 4


class TimedWork(Work):
    def read(self, unit: Unit) -> ReadUnit:
        """Its CPU seconds are those of all the process's threads: fsspec has one of its own."""
        began, began_cpu = time.time(), time.process_time()
        read = super().read(unit)
        say(
            "read",
            begin=began,
            end=time.time(),
            cpu_s=time.process_time() - began_cpu,
            pixels=sum(b.rect.pixels for b in read.blocks if isinstance(b, Pixels)),
        )
        return read

    def finish(self, segmented: SegmentedUnit) -> None:
        began = time.time()
        super().finish(segmented)
        say("finish", begin=began, end=time.time())


class TimedStage(SegmentStage):
    """A replica that does its real work."""

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        began = time.time()
        segmented = super().segment(read)
        say("segment", begin=began, end=time.time(), windows=segmented.windows)
        return segmented


class WaitingStage(SegmentStage):
    """A replica without a network: it waits. What it returns is of the right shape, so that
    everything after it does its real work."""

    def __init__(self, work: Work) -> None:
        self._seconds = float(os.environ[SECONDS])
        self._settings = work.job.settings

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        began, clock = time.time(), time.perf_counter()
        done = tuple(
            block if isinstance(block, Failure) else some_classes(where, block)
            for where, block in zip(read.unit.blocks, read.blocks, strict=True)
        )
        windows = 0
        for block in read.unit.blocks:
            scene = block.scene
            grid = WindowGrid.of(
                scene.width, scene.height, self._settings.window, self._settings.stride
            )
            windows += grid.computed(block.core)
        time.sleep(max(0.0, clock + self._seconds - time.perf_counter()))
        say("segment", begin=began, end=time.time())
        return SegmentedUnit(read.unit, done, windows, read.read_s, self._seconds, read.retries)


def some_classes(block: Block, pixels: Pixels) -> Stitched:
    """The two highest bits of the first band, in runs as a network's classes come."""
    core, rect = block.core, pixels.rect
    top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
    here = np.s_[top : top + core.height, left : left + core.width]
    class_ids_HW = pixels.values_CHW[0][here] >> 6
    class_ids_HW[~pixels.valid_HW[here]] = 255
    counts_TK = np.ones((sum(1 for _ in mask_tiles(core)), CLASSES), np.int64)
    return Stitched(class_ids_HW, counts_TK, counts_TK)


def say(stage: str, **values: float) -> None:
    with Path(os.environ[LOG]).open("a") as file:  # a short line is appended whole
        file.write(json.dumps({"stage": stage, "pid": os.getpid(), **values}) + "\n")

"""Stages with a clock, for `bench.speed.overlap` and `bench.speed.whole`; Ray's workers import them
from here.

Each writes a line of JSON per unit to the file that an environment variable names.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np

from pipeline.cluster.replica_actor import SegmentStage
from pipeline.cluster.stages import ReadStage, UnitSink
from pipeline.failure import Failure
from pipeline.grid import WindowGrid, mask_tiles
from pipeline.stages import Work
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Stitched, Unit

LOG = "SWATH_OVERLAP_LOG"
SECONDS = "SWATH_OVERLAP_SECONDS"
CLASSES = 4


class TimedReadStage(ReadStage):
    def read(self, unit: Unit) -> ReadUnit:
        """The CPU seconds logged are those of all threads of the process: fsspec has its own."""
        started, started_cpu = time.time(), time.process_time()
        read = super().read(unit)
        _log_event(
            "read",
            begin=started,
            end=time.time(),
            cpu_s=time.process_time() - started_cpu,
            pixels=sum(b.rect.pixels for b in read.blocks if isinstance(b, Pixels)),
        )
        return read


class TimedUnitSink(UnitSink):
    def finish(self, segmented: SegmentedUnit) -> None:
        started = time.time()
        super().finish(segmented)
        _log_event("finish", begin=started, end=time.time())


class TimedSegmentStage(SegmentStage):
    """A replica that does its real work."""

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        started = time.time()
        segmented = super().segment(read)
        _log_event("segment", begin=started, end=time.time(), windows=segmented.windows)
        return segmented


class WaitingSegmentStage(SegmentStage):
    """A replica without a network: it waits. What it returns has the right shape, so that all later
    stages do their real work."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._seconds = float(os.environ[SECONDS])

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        started, clock = time.time(), time.perf_counter()
        blocks = tuple(
            pixels if isinstance(pixels, Failure) else _some_classes(block, pixels)
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        )
        windows = sum(self._windows(block) for block in read.unit.blocks)
        time.sleep(max(0.0, clock + self._seconds - time.perf_counter()))
        _log_event("segment", begin=started, end=time.time())
        return SegmentedUnit(read.unit, blocks, windows, read.read_s, self._seconds, read.retries)

    def _windows(self, block: Block) -> int:
        return WindowGrid.over(block.scene, self._work.job.settings).computed(block.core)


def _some_classes(block: Block, pixels: Pixels) -> Stitched:
    """The two highest bits of the first band, in runs like those of a network's classes."""
    core, rect = block.core, pixels.rect
    top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
    in_core = np.s_[top : top + core.height, left : left + core.width]
    class_ids_HW = pixels.values_CHW[0][in_core] >> 6
    class_ids_HW[~pixels.valid_HW[in_core]] = 255
    counts_TK = np.ones((sum(1 for _ in mask_tiles(core)), CLASSES), np.int64)
    return Stitched(class_ids_HW, counts_TK, counts_TK)


def _log_event(stage: str, **values: float) -> None:
    with Path(os.environ[LOG]).open("a") as file:  # a short line is appended whole
        file.write(json.dumps({"stage": stage, "pid": os.getpid(), **values}) + "\n")

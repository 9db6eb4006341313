"""Stages that say which unit they are at, for `nodes.py`; a file of their own, since Ray's workers
import them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.cluster.stages import SegmentStage
from pipeline.stages import Work
from pipeline.unit import ReadUnit, SegmentedUnit, Unit

LOG = "SWATH_NODES_LOG"
"""The variable that names the file."""


class LoggedWork(Work):
    def read(self, unit: Unit) -> ReadUnit:
        say("read", unit)
        return super().read(unit)

    def finish(self, segmented: SegmentedUnit) -> None:
        say("finish", segmented.unit)
        super().finish(segmented)


class LoggedStage(SegmentStage):
    def segment(self, read: ReadUnit) -> Any:
        say("segment", read.unit)
        return super().segment(read)


def say(stage: str, unit: Unit) -> None:
    with Path(os.environ[LOG]).open("a") as file:  # a short line is appended whole
        file.write(f"{stage} {unit.unit_id}\n")

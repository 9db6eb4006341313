"""Stages that say which unit they are at, for `bench.promises.nodes`; a file of their own, since
Ray's workers import it."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.cluster.replica_actor import SegmentStage
from pipeline.cluster.stages import ReadStage, UnitSink
from pipeline.unit import ReadUnit, SegmentedUnit, Unit

LOG = "SWATH_NODES_LOG"
"""The variable that names the file."""


class LoggedReadStage(ReadStage):
    def read(self, unit: Unit) -> ReadUnit:
        _log_unit("read", unit)
        return super().read(unit)


class LoggedSegmentStage(SegmentStage):
    def segment(self, read: ReadUnit) -> SegmentedUnit:
        _log_unit("segment", read.unit)
        return super().segment(read)


class LoggedUnitSink(UnitSink):
    def finish(self, segmented: SegmentedUnit) -> None:
        _log_unit("finish", segmented.unit)
        super().finish(segmented)


def _log_unit(stage: str, unit: Unit) -> None:
    with Path(os.environ[LOG]).open("a") as file:  # a short line is appended whole
        file.write(f"{stage} {unit.unit_id}\n")

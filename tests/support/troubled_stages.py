"""Stages in which scenes with certain names make a library raise. Ray's workers import it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import pytest

import pipeline.engine.replica
import pipeline.imagery.header
import pipeline.imagery.pixels
import pipeline.imagery.raster
import pipeline.output.scene_tables
import pipeline.output.unit_file
from pipeline.cluster.publishers import publish_shard
from pipeline.cluster.replica_actor import SegmentStage
from pipeline.cluster.stages import (
    ReadStage,
    Stages,
    UnitSink,
    finish_with_limits,
    try_finish_with_limits,
)
from pipeline.errors import UsageError
from pipeline.failure import Failure
from pipeline.imagery.input_file import InputFile
from pipeline.output.shard import Shard
from pipeline.scene import Rect, Scene
from pipeline.settings import Settings
from pipeline.stages import ShardResult, Work
from pipeline.storage.access import Access
from pipeline.unit import Block, ReadUnit, SegmentedUnit, Unit
from tests.support.worker_deaths import misbehave

F = TypeVar("F", bound=Callable[..., Any])


class StrangeError(Exception):
    """An error that cannot be pickled, and says something on several lines."""

    def __init__(self) -> None:
        super().__init__("strange\n  and long")
        self.lock = (_ for _ in ())


ERRORS: dict[str, Exception] = {
    "describe": ZeroDivisionError("by zero"),
    "read": KeyError("no such key"),
    "segment": StrangeError(),
    "finish": AssertionError(),
    "publish": OverflowError("too large"),
}
"""What a library raises in each stage for the scene `<stage>.tif`, and for the lower block of the
scene `half-<stage>.tif`."""


def trouble(stage: str, scene: Scene | InputFile, core: Rect | None = None) -> None:
    """Raise the stage's error for a scene whose name asks for it."""
    half = core is not None and core.row_off > 0
    names = (f"{stage}.tif", f"half-{stage}.tif") if half else (f"{stage}.tif",)
    if scene.scene_id in names:
        raise ERRORS[stage]


def describe_or_failure(
    file: InputFile, settings: Settings, channels: int, access: Access
) -> Scene | Failure:
    """The function of `pipeline.imagery.header`."""
    trouble("describe", file)
    return pipeline.imagery.header.describe_or_failure(file, settings, channels, access)


def patch_all(patch: pytest.MonkeyPatch) -> None:
    """Let every stage of this process, and the processes that describe, have trouble."""
    patch.setattr(pipeline.imagery.raster, "describe_file", describe_or_failure)
    for stage in ("read", "segment", "finish", "publish"):
        _patch(patch, stage)


def _patch(patch: pytest.MonkeyPatch, stage: str) -> None:
    """Let a function that the stage calls have trouble with the scene among its arguments."""
    module, name = {
        "read": (pipeline.imagery.pixels, "read_pixels"),
        "segment": (pipeline.engine.replica.Replica, "_open"),
        "finish": (pipeline.output.unit_file, "mask_rows"),
        "publish": (pipeline.output.scene_tables, "scene_row"),
    }[stage]
    real = getattr(module, name)

    @wraps(real)
    def troubled(*arguments: Any, **named: Any) -> Any:
        scene = next((a for a in arguments if isinstance(a, Scene)), None)
        core = next((a for a in arguments if isinstance(a, Rect)), None)
        for block in arguments:
            if isinstance(block, Block):
                scene, core = block.scene, block.core
        assert scene is not None
        trouble(stage, scene, core)
        return real(*arguments, **named)

    patch.setattr(module, name, troubled)


class TroubledReadStage(ReadStage):
    def read(self, unit: Unit) -> ReadUnit:
        with pytest.MonkeyPatch.context() as patch:
            _patch(patch, "read")
            return super().read(unit)


class TroubledSegmentStage(SegmentStage):
    def segment(self, read: ReadUnit) -> SegmentedUnit:
        with pytest.MonkeyPatch.context() as patch:
            _patch(patch, "segment")
            return super().segment(read)


class TroubledUnitSink(UnitSink):
    def finish(self, segmented: SegmentedUnit) -> None:
        with pytest.MonkeyPatch.context() as patch:
            _patch(patch, "finish")
            super().finish(segmented)


def troubled_publish(work: Work, shard: Shard) -> ShardResult:
    with pytest.MonkeyPatch.context() as patch:
        _patch(patch, "publish")
        return publish_shard(work, shard)


STAGES = Stages(TroubledReadStage, TroubledSegmentStage, TroubledUnitSink, troubled_publish)


def deadly_finish(work: Work, segmented: SegmentedUnit) -> None:
    """Finish a unit, but end the process if it has results of `crash.tif`."""
    _crash(segmented)
    finish_with_limits(work, segmented)


def deadly_try_finish(work: Work, segmented: SegmentedUnit) -> None:
    """As `deadly_finish`, and write nothing."""
    _crash(segmented)
    try_finish_with_limits(work, segmented)


def _crash(segmented: SegmentedUnit) -> None:
    for block, result in zip(segmented.unit.blocks, segmented.blocks, strict=True):
        if block.scene.scene_id == "crash.tif" and not isinstance(result, Failure):
            misbehave("kill")


class RefusingReadStage(ReadStage):
    def read(self, unit: Unit) -> ReadUnit:
        del unit
        raise UsageError("b: there is no such bucket")


REFUSING = Stages(read=RefusingReadStage)

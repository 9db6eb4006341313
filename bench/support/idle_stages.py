"""Stages that do next to nothing or say where they run, and publishing that says how long it takes.

For `bench.speed.driver` and `bench.promises.placing`; a file of their own, since Ray's workers
import it.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray

from pipeline.cluster.replica_actor import SegmentStage
from pipeline.cluster.stages import ReadStage, UnitSink
from pipeline.failure import Failure
from pipeline.grid import mask_tiles
from pipeline.output.shard import Shard
from pipeline.stages import PublishedShard, Work
from pipeline.unit import Block, ReadUnit, SegmentedUnit, Stitched, Unit


class IdleSegmentStage(SegmentStage):
    """Class 0 everywhere, without a network, torch or a device."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        classes = len(self._work.job.class_names)
        blocks = tuple(
            pixels if isinstance(pixels, Failure) else _class_0(block, classes)
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        )
        return SegmentedUnit(read.unit, blocks, len(blocks), read.read_s, 0.0, read.retries)


def _class_0(block: Block, classes: int) -> Stitched:
    tiles = sum(1 for _ in mask_tiles(block.core))
    sums_TK = np.zeros((tiles, classes), np.int64)
    ids_HW = np.zeros((block.core.height, block.core.width), np.uint8)
    return Stitched(ids_HW, sums_TK, sums_TK)


class PlacedReadStage(ReadStage):
    def read(self, unit: Unit) -> ReadUnit:
        _log_node(self._work, "read")
        return super().read(unit)


class PlacedSegmentStage(IdleSegmentStage):
    def segment(self, read: ReadUnit) -> SegmentedUnit:
        _log_node(self._work, "segment")
        return super().segment(read)


class PlacedUnitSink(UnitSink):
    def finish(self, segmented: SegmentedUnit) -> None:
        _log_node(self._work, "finish")
        super().finish(segmented)


def _log_node(work: Work, stage: str) -> None:
    with placement_log(work.output).open("a") as file:  # a short line is appended whole
        file.write(f"{stage} {ray.get_runtime_context().get_node_id()}\n")


def placement_log(output: str) -> Path:
    """The file with a line for each unit and stage: the stage, and the node that it ran on."""
    return Path(output).with_suffix(".places")


@dataclass(frozen=True)
class Publication:
    """The cost of publishing one shard."""

    mpx: float
    cpu_s: float
    """CPU time of all threads of its process."""
    wall_s: float


def timed_publish(work: Work, shard: Shard) -> PublishedShard:
    started_s = time.process_time()
    published = work.publish(shard)
    assert isinstance(published, PublishedShard)
    cost = Publication(shard.pixels / 1e6, time.process_time() - started_s, published.seconds)
    with _publication_log(work.output).open("a") as file:
        file.write(json.dumps(asdict(cost)) + "\n")
    return published


def publications(output: str) -> list[Publication]:
    lines = _publication_log(output).read_text().splitlines()
    return [Publication(**json.loads(line)) for line in lines]


def _publication_log(output: str) -> Path:
    return Path(output).with_suffix(".published")

"""A replica that does next to nothing, stages that say where they run, publishing that says how
long it takes: for `driver.py` and tests of placing; a file of their own, since Ray's workers import
them."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray

from pipeline.cluster.stages import SegmentStage
from pipeline.failure import Failure
from pipeline.grid import mask_tiles
from pipeline.output.shard import Shard
from pipeline.stages import PublishedShard, Work
from pipeline.unit import Block, ReadUnit, SegmentedUnit, Stitched, Unit


class IdleStage(SegmentStage):
    """Class 0 everywhere, without a network, torch or a device."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        classes = len(self._work.job.class_names)
        blocks = tuple(
            pixels if isinstance(pixels, Failure) else _nothing(block, classes)
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        )
        return SegmentedUnit(read.unit, blocks, len(blocks), read.read_s, 0.0, read.retries)


def _nothing(block: Block, classes: int) -> Stitched:
    tiles = sum(1 for _ in mask_tiles(block.core))
    sums_TK = np.zeros((tiles, classes), np.int64)
    ids_HW = np.zeros((block.core.height, block.core.width), np.uint8)
    return Stitched(ids_HW, sums_TK, sums_TK)


class PlacedStage(IdleStage):
    def segment(self, read: ReadUnit) -> SegmentedUnit:
        say(self._work, "segment")
        return super().segment(read)


class PlacedWork(Work):
    def read(self, unit: Unit) -> ReadUnit:
        say(self, "read")
        return super().read(unit)

    def finish(self, segmented: SegmentedUnit) -> None:
        say(self, "finish")
        super().finish(segmented)


def say(work: Work, stage: str) -> None:
    with places(work.output).open("a") as file:  # a short line is appended whole
        file.write(f"{stage} {ray.get_runtime_context().get_node_id()}\n")


def places(output: str) -> Path:
    """Where it is written which stage of a unit ran on which node."""
    return Path(output).with_suffix(".places")


@dataclass(frozen=True)
class Publication:
    """What one shard's took; the CPU time of all threads of its process."""

    mpx: float
    cpu_s: float
    wall_s: float


def timed_publish(work: Work, shard: Shard) -> PublishedShard:
    began_s = time.process_time()
    published = work.publish(shard)
    took = Publication(shard.pixels / 1e6, time.process_time() - began_s, published.seconds)
    with _publications(work.output).open("a") as file:
        file.write(json.dumps(asdict(took)) + "\n")
    return published


def publications(output: str) -> list[Publication]:
    lines = _publications(output).read_text().splitlines()
    return [Publication(**json.loads(line)) for line in lines]


def _publications(output: str) -> Path:
    return Path(output).with_suffix(".published")

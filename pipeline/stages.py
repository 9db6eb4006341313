"""Read and finish, as every runner calls them; segment is the replica's method.

The verdict on an input is made here: what is wrong with one block becomes its Failure and the
others go on. Everything else is raised and ends the run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.finish import unit_file
from pipeline.grid import WindowGrid
from pipeline.output import Job, unit_path
from pipeline.raster import Pixels, read
from pipeline.receipt import Failure
from pipeline.scene import Block, Unit
from pipeline.settings import Settings
from pipeline.store import Store, version_of
from pipeline.unit import ReadUnit, SegmentedUnit, failure_of


@dataclass(frozen=True)
class Work:
    """What a worker in any process needs to know: small and picklable."""

    output: str
    job: Job
    replicas: int
    threads: int
    """CPU threads of each replica."""

    def read(self, unit: Unit) -> ReadUnit:
        """The pixels of every block that can be read."""
        started = time.perf_counter()
        blocks = tuple(_read_block(block, self.job.settings) for block in unit.blocks)
        return ReadUnit(unit, blocks, time.perf_counter() - started)

    def finish(self, segmented: SegmentedUnit) -> None:
        """Writes the unit's file: from here on the unit has an outcome."""
        Store(self.output).write(unit_path(segmented.unit), unit_file(segmented))


def _read_block(block: Block, settings: Settings) -> Pixels | Failure:
    scene = block.scene
    grid = WindowGrid.of(scene.width, scene.height, settings.window, settings.stride)
    try:
        _check_version(block)
        return read(scene, grid.read_rect(block.core))
    except InputError as error:
        return failure_of(error, block)


def _check_version(block: Block) -> None:
    scene = block.scene
    try:
        version = version_of(scene.url)
    except FileNotFoundError as error:
        raise InputError(
            f"{scene.url}: vanished after it was planned; put it back", url=scene.url, stage="read"
        ) from error
    if version != scene.version:
        raise InputError(
            f"{scene.url}: changed after it was planned (was {scene.version}, is {version});"
            " run again to plan the new version",
            url=scene.url,
            stage="read",
        )

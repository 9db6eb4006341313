"""Read and finish, as every runner calls them; segment is the replica's method.

The verdict on an input is made here: what is wrong with one block becomes its Failure and the
others go on. Everything else is raised and ends the run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipeline.access import Access
from pipeline.errors import InputError
from pipeline.finish import unit_file
from pipeline.grid import WindowGrid
from pipeline.inputs import version_of
from pipeline.output import Job, unit_path
from pipeline.raster import Pixels, read
from pipeline.receipt import Failure
from pipeline.scene import Block, Scene, Unit
from pipeline.stores import open_store
from pipeline.unit import ReadUnit, SegmentedUnit, failure_of


@dataclass(frozen=True)
class Work:
    """What a worker in any process needs to know: small and picklable."""

    output: str
    access: Access
    job: Job
    replicas: int

    def read(self, unit: Unit) -> ReadUnit:
        """The pixels of every block that can be read."""
        started = time.perf_counter()
        blocks = tuple(self._read_block(block) for block in unit.blocks)
        return ReadUnit(unit, blocks, time.perf_counter() - started)

    def finish(self, segmented: SegmentedUnit) -> None:
        """Writes the unit's file: from here on the unit has an outcome."""
        open_store(self.output, self.access).write(unit_path(segmented.unit), unit_file(segmented))

    def _read_block(self, block: Block) -> Pixels | Failure:
        scene, settings = block.scene, self.job.settings
        grid = WindowGrid.of(scene.width, scene.height, settings.window, settings.stride)
        try:
            self._check_version(scene)
            return read(scene, grid.read_rect(block.core), self.access)
        except InputError as error:
            return failure_of(error, block)

    def _check_version(self, scene: Scene) -> None:
        try:
            version = version_of(scene.url, self.access)
        except FileNotFoundError as error:
            raise InputError(
                f"{scene.url}: vanished after it was planned; put it back",
                url=scene.url,
                stage="read",
            ) from error
        if version != scene.version:
            raise InputError(
                f"{scene.url}: changed after it was planned (was {scene.version}, is {version});"
                " run again to plan the new version",
                url=scene.url,
                stage="read",
            )

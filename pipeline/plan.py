"""Scenes to shards of units, and what they will take. Pure arithmetic over headers.

The plan decides how work is divided, never what comes out. Reads no pixels and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.area import CellAreas
from pipeline.errors import UsageError
from pipeline.grid import WindowGrid, cores
from pipeline.output import Rejected, Shard
from pipeline.receipt import Estimate
from pipeline.scene import Block, Rect, Scene, Unit
from pipeline.settings import MASK_TILE_PX, Execution, Settings

UNIT_S = 10.0
"""A unit is about this much work for one replica: long enough to amortise the 20 to 28 ms of
driver CPU that a row costs, short enough to lose little when a replica dies."""
UNITS_PER_REPLICA = 16
"""Small jobs are cut finer, for progress, balance and something to resume."""
LARGEST_UNIT_PX = 150_000_000
SHARD_UNITS = 1000
SHARD_SCENES = 2000
NOMINAL_GFLOP_PER_S = {"cpu": 50.0, "cuda": 30_000.0}
"""Of one CPU thread (measured: 40 to 60 on AVX-512 cores) and of one GPU (assumed, not measured):
they size units and the estimate of hours, nothing else."""
BATCH = {"cpu": 1, "cuda": 16}
"""Windows per forward pass. On a CPU one window already fills the cache."""
_PROCESS_BYTES = 900_000_000
"""Interpreter, torch, Ray's worker and a loaded B5."""
_ACTIVATION_BYTES_PER_PX = 1600
"""Peak of the forward pass per pixel of one window, float32, folded head."""


@dataclass(frozen=True)
class Machine:
    """What one replica has."""

    device: str
    threads: int
    replicas: int
    memory_bytes: int
    """Of the machine that holds the replicas."""


@dataclass(frozen=True)
class Network:
    """What the plan needs to know of the checkpoint."""

    classes: int
    channels: int
    gflop_per_window: float


@dataclass(frozen=True)
class Planner:
    """Divides scenes into blocks, blocks into units, and units into shards."""

    settings: Settings
    execution: Execution
    machine: Machine
    network: Network

    def shards(
        self, scenes: Sequence[Scene], rejected: Sequence[Rejected], first: int
    ) -> Iterator[Shard]:
        """Shards of whole scenes, numbered from `first`. Raises UsageError where a unit would not
        fit into memory."""
        target_px = self._target_px(sum(scene.pixels for scene in scenes))
        left = list(rejected)
        for number, some in enumerate(self._by_shard(scenes, target_px), first):
            shard_id = f"{number:06d}"
            units = tuple(self._units(shard_id, some, target_px))
            for unit in units:
                self._check_memory(unit)
            yield Shard(shard_id, tuple(some), units, tuple(left))
            left = []
        if left:
            yield Shard(f"{first:06d}", (), (), tuple(left))

    def _target_px(self, total_px: int) -> int:
        rate = NOMINAL_GFLOP_PER_S[self.machine.device]
        rate *= self.machine.threads if self.machine.device == "cpu" else 1
        by_time = UNIT_S * rate / self.network.gflop_per_window * self.settings.stride**2
        by_count = total_px / (UNITS_PER_REPLICA * self.machine.replicas)
        return int(min(max(min(by_time, by_count), MASK_TILE_PX**2), LARGEST_UNIT_PX))

    def _by_shard(self, scenes: Sequence[Scene], target_px: int) -> Iterator[list[Scene]]:
        some: list[Scene] = []
        units = 0.0
        for scene in scenes:
            blocks = max(len(self._cores(scene, target_px)), scene.pixels / target_px)
            if some and (units + blocks > SHARD_UNITS or len(some) == SHARD_SCENES):
                yield some
                some, units = [], 0.0
            some.append(scene)
            units += blocks
        if some:
            yield some

    def _units(self, shard_id: str, scenes: Iterable[Scene], target_px: int) -> Iterator[Unit]:
        """Blocks of one scene are units of their own; small scenes share one."""
        bundle: list[Block] = []
        bundled_px = 0
        for scene in scenes:
            blocks = [Block(scene, core) for core in self._cores(scene, target_px)]
            if len(blocks) > 1:
                yield from (Unit(shard_id, (block,)) for block in blocks)
                continue
            # Half over is nearer the target than half under.
            if bundle and bundled_px + scene.pixels / 2 > target_px:
                yield Unit(shard_id, tuple(bundle))
                bundle, bundled_px = [], 0
            bundle += blocks
            bundled_px += scene.pixels
        if bundle:
            yield Unit(shard_id, tuple(bundle))

    def _cores(self, scene: Scene, target_px: int) -> list[Rect]:
        if self.execution.block:
            edge = self.execution.block
            return cores(scene.width, scene.height, edge, edge)
        if scene.pixels <= 1.5 * target_px:
            return [scene.rect]
        step = self._step()
        if scene.striped:
            height = max(1, round(target_px / scene.width / step)) * step
            return cores(scene.width, scene.height, scene.width, height)
        edge = max(1, round(math.sqrt(target_px) / step)) * step
        return cores(scene.width, scene.height, edge, edge)

    def _step(self) -> int:
        """Cores grow by this: a multiple of the mask tile, and of the stride where that fits, and
        no core below four strides, where more than half the windows would be computed twice."""
        both = math.lcm(MASK_TILE_PX, self.settings.stride)
        step = both if both <= 4 * MASK_TILE_PX else MASK_TILE_PX
        return step * max(1, math.ceil(4 * self.settings.stride / step))

    def memory_bytes(self, unit: Unit) -> int:
        """Predicted peak of a replica's process with this unit."""
        settings, classes = self.settings, self.network.classes
        total = _PROCESS_BYTES
        total += (settings.batch or 1) * settings.window**2 * _ACTIVATION_BYTES_PER_PX
        live_bytes = 0
        for block in unit.blocks:
            grid = self._grid(block.scene)
            read = grid.read_rect(block.core)
            planes = len(set(block.scene.bands)) * np.dtype(block.scene.dtype).itemsize
            total += read.pixels * (planes + 1) + block.core.pixels * 2
            live_rows = -(-settings.window // settings.stride) + 1
            columns = len(grid.touching(block.core)[1])
            live_bytes = max(live_bytes, live_rows * columns * classes * settings.window**2 // 4)
        return total + live_bytes

    def _check_memory(self, unit: Unit) -> None:
        available = self.machine.memory_bytes // self.machine.replicas
        needed = self.memory_bytes(unit)
        if needed <= available:
            return
        block = unit.blocks[0]
        raise UsageError(
            f"{block.scene.url}: block {block.core} needs {needed / 1e9:.1f} GB per replica, but"
            f" only {available / 1e9:.1f} GB are there;"
            f" use --block {self._fitting_block(block, available)} or fewer --replicas"
        )

    def _fitting_block(self, block: Block, available: int) -> int:
        edge = max(block.core.width, block.core.height) // MASK_TILE_PX * MASK_TILE_PX
        while edge > MASK_TILE_PX:
            edge -= MASK_TILE_PX
            core = Rect(0, 0, min(edge, block.scene.width), min(edge, block.scene.height))
            if self.memory_bytes(Unit("", (Block(block.scene, core),))) <= available:
                break
        return max(edge, MASK_TILE_PX)

    def _grid(self, scene: Scene) -> WindowGrid:
        return WindowGrid.of(scene.width, scene.height, self.settings.window, self.settings.stride)

    def estimate(self, shards: Sequence[Shard], inputs: int, notes: Sequence[str]) -> Estimate:
        """What these shards will take."""
        scenes = [scene for shard in shards for scene in shard.scenes]
        units = [unit for shard in shards for unit in shard.units]
        blocks = [block for unit in units for block in unit.blocks]
        computed = sum(self._grid(b.scene).computed(b.core) for b in blocks)
        gflop_per_s = NOMINAL_GFLOP_PER_S[self.machine.device]
        gflop_per_s *= self.machine.threads if self.machine.device == "cpu" else 1
        return Estimate(
            inputs=inputs,
            scenes=len(scenes),
            rejected=tuple(r.failure for shard in shards for r in shard.rejected),
            units=len(units),
            windows=sum(self._grid(scene).count for scene in scenes),
            windows_computed=computed,
            megapixels=sum(scene.pixels for scene in scenes) / 1e6,
            km2=_km2(scenes),
            read_bytes=sum(self._read_bytes(block) for block in blocks),
            memory_bytes=max((self.memory_bytes(unit) for unit in units), default=0),
            hours=computed * self.network.gflop_per_window / gflop_per_s / 3600,
            device=self.machine.device,
            batch=self.settings.batch or 0,
            notes=(*notes, *self._notes(scenes)),
        )

    def _read_bytes(self, block: Block) -> int:
        planes = len(set(block.scene.bands)) * np.dtype(block.scene.dtype).itemsize
        return self._grid(block.scene).read_rect(block.core).pixels * planes

    def _notes(self, scenes: Sequence[Scene]) -> Iterator[str]:
        window = self.settings.window
        small = [s for s in scenes if min(s.width, s.height) < window]
        if small:
            waste = 1 - sum(min(s.width, window) * min(s.height, window) for s in small) / (
                len(small) * window**2
            )
            yield (
                f"{len(small)} of {len(scenes)} scenes are smaller than the window of {window} px"
                f" ({small[0].scene_id}: {small[0].width} x {small[0].height}); they are filled,"
                f" and {waste:.0%} of their windows is filling: a smaller --window wastes less"
            )
        bare = sum(scene.crs is None for scene in scenes)
        if bare:
            yield f"{bare} of {len(scenes)} scenes have no CRS: no areas, no geometry"


def _km2(scenes: Iterable[Scene]) -> float | None:
    areas = [CellAreas(s.crs, s.transform, s.width, s.height).total_m2() for s in scenes if s.crs]
    return sum(areas) / 1e6 if areas else None

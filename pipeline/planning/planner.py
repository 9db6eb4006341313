"""Scenes to shards of units. Decides how work is divided, never what comes out; writes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UsageError
from pipeline.failure import Rejected
from pipeline.grid import cores
from pipeline.output.shard import Shard
from pipeline.planning.cost import Cost
from pipeline.planning.memory_budget import MemoryBudget, budget_memory
from pipeline.planning.memory_need import MemoryNeed
from pipeline.scene import Rect, Scene
from pipeline.settings import MASK_TILE_PX, Execution
from pipeline.unit import Block, Unit

UNIT_S = 10.0
"""A unit is about this much work for one replica: long enough to amortise the 20 to 28 ms of
driver CPU that a row costs, short enough to lose little when a replica dies."""
UNITS_PER_REPLICA = 16
"""Bundles of small jobs are smaller, for progress, balance and something to resume."""
BLOCKS_PER_REPLICA = 4
"""The least: the halos of smaller blocks would cost a small job more than its balance is worth."""
LEAST_WINDOWS = 4
LARGEST_UNIT_PX = 150_000_000
MOST_UNITS = 1_000_000
"""Of one job: some 8 Tpx with MiT-B0 on CPUs, 150 Tpx on GPUs. The plan would have a gigabyte."""
SHARD_UNITS = 1000
SHARD_SCENES = 2000
SHARDS_PER_DRIVER = 4
"""Where several share the output, so that all end at about the same time."""
SHARD_TILES = 20_000
"""Of more than one scene: whoever publishes a shard holds a record for each mask tile."""
BATCH = {"cpu": 1, "cuda": 32}
"""Windows per forward pass. On a CPU one window already fills the cache."""


@dataclass(frozen=True)
class Target:
    """Windows that a unit should have."""

    bundle: float
    block: float


@dataclass(frozen=True)
class Planner:
    """Divides scenes into blocks, blocks into units, and units into shards."""

    cost: Cost
    execution: Execution

    def shards(
        self, scenes: Sequence[Scene], rejected: Sequence[Rejected], first: int
    ) -> Iterator[Shard]:
        """Shards of whole scenes, numbered from `first`. Raises UsageError where they would not fit
        into memory, and where there would be too many units."""
        shards = tuple(self._divided(scenes, rejected, first))
        units = [unit for shard in shards for unit in shard.units]
        if units and MemoryBudget.of(MemoryNeed.of(self.cost, units), self.cost.machine) is None:
            budget_memory(self.cost, units, self._remedy(scenes, units))
        yield from shards

    def _divided(
        self, scenes: Sequence[Scene], rejected: Sequence[Rejected], first: int
    ) -> Iterator[Shard]:
        target = self._target(sum(self.cost.grid(scene).count for scene in scenes))
        self._check_count(scenes, target)
        left = tuple(rejected)
        for number, some in enumerate(self._by_shard(scenes, target), first):
            shard_id = f"{number:06d}"
            yield Shard(shard_id, tuple(some), tuple(self._units(shard_id, some, target)), left)
            left = ()
        if left:
            yield Shard(f"{first:06d}", (), (), left)

    def _target(self, total: int) -> Target:
        """For so many windows. What is finer is better balanced at the end, when replicas wait for
        the last one half a unit long; but blocks have halos: a block of n by n strides computes
        (n + e)^2 windows. So with R replicas and W windows (1 + 2e/n) (1 + R n^2 / 2W) is to be
        least, which it is at n^3 = 2eW/R."""
        settings = self.cost.settings
        share = total / (self.cost.machine.replicas * self.execution.shards.of)
        by_time = UNIT_S / self.cost.window_s
        most = min(by_time, LARGEST_UNIT_PX / settings.stride**2)
        bundle = share / UNITS_PER_REPLICA
        halo = (settings.window - 1) // settings.stride
        block = min((2 * halo * share) ** (2 / 3), share / BLOCKS_PER_REPLICA)
        return Target(*(max(min(n, most), LEAST_WINDOWS) for n in (bundle, max(bundle, block))))

    def _by_shard(self, scenes: Sequence[Scene], target: Target) -> Iterator[list[Scene]]:
        some: list[Scene] = []
        units, tiles = 0.0, 0
        most = self._shard_units(scenes, target)
        for scene in scenes:
            share = self._share(scene, target)
            here = -(-scene.width // MASK_TILE_PX) * -(-scene.height // MASK_TILE_PX)
            full = units + share > most or tiles + here > SHARD_TILES
            if some and (full or len(some) == SHARD_SCENES):
                yield some
                some, units, tiles = [], 0.0, 0
            some.append(scene)
            units += share
            tiles += here
        if some:
            yield some

    def _share(self, scene: Scene, target: Target) -> float:
        """Units that the scene is, or the part of one."""
        blocks = self._count(scene, target)
        return blocks if blocks > 1 else self.cost.grid(scene).count / target.bundle

    def _shard_units(self, scenes: Sequence[Scene], target: Target) -> float:
        """Of a shard: fewer where several drivers are to get some of them."""
        drivers = self.execution.shards
        if drivers.whole:
            return SHARD_UNITS
        total = sum(self._share(scene, target) for scene in scenes)
        return min(SHARD_UNITS, max(1.0, total / (SHARDS_PER_DRIVER * drivers.of)))

    def _units(self, shard_id: str, scenes: Iterable[Scene], target: Target) -> Iterator[Unit]:
        """Blocks of one scene are units of their own; small scenes share one."""
        bundle: list[Block] = []
        bundled = 0
        for scene in scenes:
            blocks = [Block(scene, core) for core in self._cores(scene, target)]
            if len(blocks) > 1:
                yield from (Unit(shard_id, (block,)) for block in blocks)
                continue
            windows = self.cost.grid(scene).count
            # Half over is nearer the target than half under.
            if bundle and bundled + windows / 2 > target.bundle:
                yield Unit(shard_id, tuple(bundle))
                bundle, bundled = [], 0
            bundle += blocks
            bundled += windows
        if bundle:
            yield Unit(shard_id, tuple(bundle))

    def _cores(self, scene: Scene, target: Target) -> list[Rect]:
        return cores(scene.width, scene.height, *self._core_size(scene, target))

    def _count(self, scene: Scene, target: Target) -> int:
        """Blocks of the scene, without a list of them."""
        width, height = self._core_size(scene, target)
        return -(-scene.width // width) * -(-scene.height // height)

    def _core_size(self, scene: Scene, target: Target) -> tuple[int, int]:
        if self.execution.block:
            return self.execution.block, self.execution.block
        if self.cost.grid(scene).count <= 1.5 * target.block:
            return scene.width, scene.height
        step, target_px = self._step(), target.block * self.cost.settings.stride**2
        if scene.striped:
            height = max(1, round(target_px / scene.width / step)) * step
            return scene.width, height
        edge = max(1, round(math.sqrt(target_px) / step)) * step
        return edge, edge

    def _step(self) -> int:
        """Cores grow by this: a multiple of the mask tile, and of the stride where that fits, and
        no core below four strides, where more than half the windows would be computed twice."""
        stride = self.cost.settings.stride
        both = math.lcm(MASK_TILE_PX, stride)
        step = both if both <= 4 * MASK_TILE_PX else MASK_TILE_PX
        return step * max(1, math.ceil(4 * stride / step))

    def _check_count(self, scenes: Sequence[Scene], target: Target) -> None:
        counts = [self._count(scene, target) for scene in scenes]
        blocks = sum(count for count in counts if count > 1)
        if blocks > MOST_UNITS:
            largest = max(scenes, key=lambda scene: scene.pixels)
            megapixels = sum(scene.pixels for scene in scenes) / 1e6
            raise UsageError(
                f"{megapixels:,.0f} Mpx would be {blocks:,} units, more than {MOST_UNITS:,}; the"
                f" largest scene is {largest.url} of {largest.width}x{largest.height} px: leave it"
                " out if that is wrong, else use a larger --block or divide the INPUTs between"
                " several outputs"
            )

    def _remedy(self, scenes: Sequence[Scene], units: Sequence[Unit]) -> str:
        """What to change so that it fits: the largest block, else the most replicas, else both."""
        replicas = self.cost.machine.required_replicas
        edge = max(max(b.core.width, b.core.height) for unit in units for b in unit.blocks)
        smaller = (edge - 1) // MASK_TILE_PX
        if block := _largest(smaller, lambda n: self._fits(scenes, n * MASK_TILE_PX, replicas)):
            return f"use --block {block * MASK_TILE_PX}"
        if fewer := _largest(replicas - 1, lambda n: self._fits(scenes, self.execution.block, n)):
            return f"use --replicas {fewer}"
        if block := _largest(smaller, lambda n: self._fits(scenes, n * MASK_TILE_PX, 1)):
            return f"use --block {block * MASK_TILE_PX} --replicas 1"
        alone = "--runner local, " if self._fits_alone(units) else ""
        return f"use {alone}a smaller --window or --batch, or a machine with more memory"

    def _fits_alone(self, units: Sequence[Unit]) -> bool:
        """Whether one process would do that does everything, where there are to be several."""
        machine = self.cost.machine
        if machine.nodes_bytes or machine.tasks == 0:
            return False
        alone = replace(machine, replicas=1, least=None, tasks=0)
        return MemoryBudget.of(MemoryNeed.of(replace(self.cost, machine=alone), units), alone) is not None

    def _fits(self, scenes: Sequence[Scene], block: int | None, replicas: int) -> bool:
        """Whether the scenes would, with this block and so many replicas."""
        machine = replace(self.cost.machine, replicas=replicas, least=None)
        cost = replace(self.cost, machine=machine)
        other = Planner(cost, replace(self.execution, block=block))
        try:
            units = [unit for shard in other._divided(scenes, (), 0) for unit in shard.units]
        except UsageError:  # too many of them
            return False
        return MemoryBudget.of(MemoryNeed.of(cost, units), machine) is not None


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `most` that fits, if all below it do; 0 where none does."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least

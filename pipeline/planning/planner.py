"""Divides scenes into shards of units. Decides how the work is divided, never the rows; writes
nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UsageError
from pipeline.failure import Rejected
from pipeline.grid import cores
from pipeline.output.shard import Shard
from pipeline.planning.core_size import MAX_UNIT_PX, Target, core_size, with_storage_doubt
from pipeline.planning.memory_budget import MemoryBudget, budget_memory
from pipeline.planning.memory_need import MemoryNeed
from pipeline.planning.workload import Workload
from pipeline.scene import Rect, Scene
from pipeline.settings import MASK_TILE_PX, Execution
from pipeline.unit import Block, Unit

UNIT_S = 10.0
"""A unit is about this much work for one replica: long enough to amortise the 20 to 28 ms of
driver CPU that a row costs, short enough to lose little when a replica dies."""
UNITS_PER_REPLICA = 16
"""Units per replica of a small job, whose bundles are smaller: for progress, balance and resume."""
BLOCKS_PER_REPLICA = 4
"""The smallest number of blocks per replica of a small job: the halos of smaller blocks would cost
it more than their balance is worth."""
MIN_WINDOWS = 4
"""The smallest number of windows in a unit."""
MAX_UNITS = 1_000_000
"""The largest number of units in a job: some 8 Tpx with MiT-B0 on CPUs, 150 Tpx on GPUs. The plan
would have a gigabyte."""
SHARD_UNITS = 1000
"""The largest number of units in a shard."""
SHARD_SCENES = 2000
"""The largest number of scenes in a shard."""
SHARDS_PER_DRIVER = 4
"""The smallest number of shards for each of several drivers, so that all finish at about the same
time."""
SHARD_TILES = 20_000
"""The largest number of mask tiles in a shard of several scenes: publishing it keeps a record of
each tile in memory."""
BATCH = {"cpu": 1, "cuda": 32}
"""Default number of windows per forward pass. On a CPU one window already fills the cache."""


@dataclass(frozen=True)
class Planner:
    """Divides scenes into blocks, blocks into units, and units into shards."""

    workload: Workload
    execution: Execution

    def shards(
        self, scenes: Sequence[Scene], rejected: Sequence[Rejected], first: int
    ) -> Iterator[Shard]:
        """Shards of whole scenes, numbered from `first`. Raises UsageError if their units would not
        fit into memory, or if there would be too many."""
        shards = tuple(self._divide(scenes, rejected, first))
        units = [unit for shard in shards for unit in shard.units]
        if (
            units
            and MemoryBudget.of(MemoryNeed.of(self.workload, units), self.workload.machine) is None
        ):
            budget_memory(self.workload, units, self._remedy(scenes, units))
        yield from shards

    def _divide(
        self, scenes: Sequence[Scene], rejected: Sequence[Rejected], first: int
    ) -> Iterator[Shard]:
        target = self._target(sum(self.workload.grid(scene).count for scene in scenes))
        self._check_count(scenes, target)
        scenes = [
            with_storage_doubt(self.workload, scene, self._core_size(scene, target))
            for scene in scenes
        ]
        unassigned = tuple(rejected)  # the first shard records them
        for number, members in enumerate(self._group_scenes(scenes, target), first):
            shard_id = f"{number:06d}"
            units = tuple(self._units(shard_id, members, target))
            yield Shard(shard_id, tuple(members), units, unassigned)
            unassigned = ()
        if unassigned:
            yield Shard(f"{first:06d}", (), (), unassigned)

    def _target(self, total: int) -> Target:
        """The target for a job of `total` windows.

        Smaller units balance better at the end, when replicas wait for the last one for half a unit
        on average; but blocks have halos: a block of n by n strides computes (n + e)^2 windows. So
        with R replicas and W windows, (1 + 2e/n) (1 + R n^2 / 2W) should be smallest, which it is
        at n^3 = 2eW/R."""
        settings = self.workload.settings
        replicas = self.workload.machine.replicas * self.execution.shards.of
        windows_per_replica = total / replicas
        limit = min(UNIT_S / self.workload.window_s, MAX_UNIT_PX / settings.stride**2)
        bundle = windows_per_replica / UNITS_PER_REPLICA
        halo = (settings.window - 1) // settings.stride
        balanced = (2 * halo * windows_per_replica) ** (2 / 3)
        block = min(balanced, windows_per_replica / BLOCKS_PER_REPLICA)
        bundle, block = (max(min(n, limit), MIN_WINDOWS) for n in (bundle, max(bundle, block)))
        return Target(bundle, block, windows_per_replica)

    def _group_scenes(self, scenes: Sequence[Scene], target: Target) -> Iterator[list[Scene]]:
        """The scenes of each shard."""
        shard: list[Scene] = []
        shard_units, shard_tiles = 0.0, 0
        max_units = self._max_shard_units(scenes, target)
        for scene in scenes:
            units = self._unit_count(scene, target)
            tiles = -(-scene.width // MASK_TILE_PX) * -(-scene.height // MASK_TILE_PX)
            full = shard_units + units > max_units or shard_tiles + tiles > SHARD_TILES
            if shard and (full or len(shard) == SHARD_SCENES):
                yield shard
                shard, shard_units, shard_tiles = [], 0.0, 0
            shard.append(scene)
            shard_units += units
            shard_tiles += tiles
        if shard:
            yield shard

    def _unit_count(self, scene: Scene, target: Target) -> float:
        """The number of units that the scene becomes; below 1 if it shares one."""
        blocks = self._block_count(scene, target)
        return blocks if blocks > 1 else self.workload.grid(scene).count / target.bundle

    def _max_shard_units(self, scenes: Sequence[Scene], target: Target) -> float:
        """The largest number of units in a shard: fewer if there are several drivers, so that each
        gets some shards."""
        drivers = self.execution.shards
        if drivers.whole:
            return SHARD_UNITS
        total = sum(self._unit_count(scene, target) for scene in scenes)
        return min(SHARD_UNITS, max(1.0, total / (SHARDS_PER_DRIVER * drivers.of)))

    def _units(self, shard_id: str, scenes: Iterable[Scene], target: Target) -> Iterator[Unit]:
        """A scene of several blocks becomes one unit per block; small scenes share units."""
        bundle: list[Block] = []
        bundled = 0
        for scene in scenes:
            blocks = [Block(scene, core) for core in self._cores(scene, target)]
            if len(blocks) > 1:
                yield from (Unit(shard_id, (block,)) for block in blocks)
                continue
            windows = self.workload.grid(scene).count
            # A bundle that is half a scene too large is closer to the target than one too small.
            if bundle and bundled + windows / 2 > target.bundle:
                yield Unit(shard_id, tuple(bundle))
                bundle, bundled = [], 0
            bundle += blocks
            bundled += windows
        if bundle:
            yield Unit(shard_id, tuple(bundle))

    def _cores(self, scene: Scene, target: Target) -> list[Rect]:
        return cores(scene.width, scene.height, *self._core_size(scene, target))

    def _block_count(self, scene: Scene, target: Target) -> int:
        """The number of blocks of the scene, without listing them."""
        width, height = self._core_size(scene, target)
        return -(-scene.width // width) * -(-scene.height // height)

    def _core_size(self, scene: Scene, target: Target) -> tuple[int, int]:
        """Width and height in pixels of the cores that a scene is divided into."""
        if self.execution.block:
            return self.execution.block, self.execution.block
        return core_size(self.workload, scene, target)

    def _check_count(self, scenes: Sequence[Scene], target: Target) -> None:
        """Raises UsageError if the scenes would be too many units."""
        counts = [self._block_count(scene, target) for scene in scenes]
        blocks = sum(count for count in counts if count > 1)
        if blocks > MAX_UNITS:
            largest = max(scenes, key=lambda scene: scene.pixels)
            megapixels = sum(scene.pixels for scene in scenes) / 1e6
            raise UsageError(
                f"{megapixels:,.0f} Mpx would be {blocks:,} units, more than {MAX_UNITS:,}; the"
                f" largest scene is {largest.url} of {largest.width}x{largest.height} px: exclude"
                " it if that is wrong, otherwise use a larger --block or divide the INPUTs between"
                " several outputs"
            )

    def _remedy(self, scenes: Sequence[Scene], units: Sequence[Unit]) -> str:
        """What to change so that the units fit into memory: storage tiles that do not, the largest
        block that fits, otherwise the largest number of replicas, otherwise both."""
        if culprit := self._culprit(scenes):
            return (
                f"{culprit.url} is stored in parts of {culprit.storage_bytes / 1e9:.1f} GB, and a"
                " part is decoded as a whole: convert it, e.g."
                " gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT"
            )
        replicas = self.workload.machine.required_replicas
        edge = max(max(b.core.width, b.core.height) for unit in units for b in unit.blocks)
        smaller = (edge - 1) // MASK_TILE_PX
        if block := _largest(smaller, lambda n: self._fits(scenes, n * MASK_TILE_PX, replicas)):
            return f"use --block {block * MASK_TILE_PX}"
        if fewer := _largest(replicas - 1, lambda n: self._fits(scenes, self.execution.block, n)):
            return f"use --replicas {fewer}"
        if block := _largest(smaller, lambda n: self._fits(scenes, n * MASK_TILE_PX, 1)):
            return f"use --block {block * MASK_TILE_PX} --replicas 1"
        local = "--runner local, " if self._fits_locally(units) else ""
        return f"use {local}a smaller --window or --batch, or a machine with more memory"

    def _culprit(self, scenes: Sequence[Scene]) -> Scene | None:
        """The scene with the largest storage tiles, if all would fit with small ones."""
        small = [replace(scene, storage_bytes=0) for scene in scenes]
        if self._fits(small, self.execution.block, self.workload.machine.required_replicas):
            return max(scenes, key=lambda scene: scene.storage_bytes)
        return None

    def _fits_locally(self, units: Sequence[Unit]) -> bool:
        """Whether the units would fit into the only process of the local runner; False if that is
        the runner already."""
        machine = self.workload.machine
        if machine.nodes_bytes or machine.tasks == 0:
            return False
        local = replace(machine, replicas=1, min_replicas=None, tasks=0)
        need = MemoryNeed.of(replace(self.workload, machine=local), units)
        return MemoryBudget.of(need, local) is not None

    def _fits(self, scenes: Sequence[Scene], block: int | None, replicas: int) -> bool:
        """Whether the scenes would fit into memory with this block and this number of replicas."""
        machine = replace(self.workload.machine, replicas=replicas, min_replicas=None)
        workload = replace(self.workload, machine=machine)
        other = Planner(workload, replace(self.execution, block=block))
        try:
            units = [unit for shard in other._divide(scenes, (), 0) for unit in shard.units]
        except UsageError:  # too many units
            return False
        return MemoryBudget.of(MemoryNeed.of(workload, units), machine) is not None


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `limit` that fits, given that all smaller ones do; 0: none."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low

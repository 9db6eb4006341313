"""Which processes run at once, what each of them takes at most, and whether that fits.

Peaks of resident memory, from headers alone. What a process takes of its own is counted apart from
the pages of Ray's object store that it touches: these are there once, however many touch them.
Knows no library; the constants were measured (bench/memory.py; Linux, Python 3.11, torch 2.13).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipeline.cost import Cost
from pipeline.errors import UsageError
from pipeline.machine import LEAST_TASKS, Machine
from pipeline.scene import Unit
from pipeline.settings import MASK_TILE_PX

USABLE = 0.9
"""Of a machine's memory: from 95 % on Ray kills workers, and the system has its share."""
ROWS_PER_REPLICA = 4
"""In the object store: one in work, one that waits for it, and what is read meanwhile."""
_WORKER_BYTES = 300_000_000
"""Interpreter, Ray's worker, GDAL, s3fs, pyarrow: 240 MB and what stays between two units."""
_REPLICA_BYTES = 900_000_000
"""The same with torch and what its first window loads, and numba: 185 MB while it compiles."""
_DRIVER_BYTES = 650_000_000
_CUDA_BYTES = 3_000_000_000
"""Of a process that uses a GPU, on the host. Assumed, not measured."""
_LOADING, _LOADED = 2.5, 1.3
"""Copies of the weights: while a checkpoint is read (2.2 measured), and from then on (1.1)."""
_GDAL_BYTES = 128 << 20
"""examine.GDAL_CACHE_MB."""
_BLEND_BYTES = 60_000_000
"""Of a strip that is upsampled: stitch._LIVE_VALUES in a dozen forms."""
_WRITING = 7
"""Copies of the class ids while a unit's file is made; 5.3 where they compress to a third."""
_PUBLISHED = 2
"""Copies of a unit's class ids while its masks are put aside."""
_ROW_GROUP_TILES, _ROW_GROUP_COPIES = 256, 6
"""tables.ROW_GROUP_ROWS, and what a row group of masks takes until it is written."""
_TILE_BYTES, _TILE_CLASS_BYTES = 2_000, 700
"""A mask tile's row as Python objects, and each class in it."""
_UNIT_BYTES = 12_000
"""A unit in the plan and in Ray Data's books."""
_RAY_BYTES, _RAY_REPLICA_BYTES = 1_000_000_000, 100_000_000
"""Ray's own processes, and an idle worker for each CPU."""
_LEAST_STORE_BYTES = 128 << 20
_STORE_USABLE = 0.8
"""Of the object store: what is beyond, Ray writes to disk, by processes that it starts for that."""


@dataclass(frozen=True)
class Need:
    """Predicted peaks, each of one process with the unit that asks for most; without what is
    touched of the object store."""

    driver_bytes: int
    replica_bytes: int
    reader_bytes: int
    writer_bytes: int
    row_bytes: int
    """Of the largest unit's pixels in the object store."""
    local_bytes: int
    """Of the one process of the local runner."""

    @classmethod
    def of(cls, cost: Cost, units: Sequence[Unit]) -> Need:
        """Of the largest of the units, and of publishing their shards."""
        if not units:
            return cls(0, 0, 0, 0, 0, 0)
        weights = cost.network.weights_bytes
        row = max(map(cost.row_bytes, units))
        read, segment = _GDAL_BYTES + 2 * row, max(_segmenting(cost, unit) for unit in units)
        write = max(_writing(cost, unit) for unit in units)
        publish = len(units) * _UNIT_BYTES + max(_publishing(cost, units))
        loading, loaded = math.ceil(_LOADING * weights), math.ceil(_LOADED * weights)
        local = max(loading, loaded + read + max(segment, write, publish))
        return cls(
            driver_bytes=_DRIVER_BYTES + max(loading, publish, write),
            replica_bytes=_replica(cost) + max(loading, loaded + segment),
            reader_bytes=_WORKER_BYTES + read,
            writer_bytes=_WORKER_BYTES + write,
            row_bytes=row,
            local_bytes=_replica(cost) + local,
        )

    @property
    def task_bytes(self) -> int:
        """Of a process that reads or writes: Ray has one do both."""
        return max(self.reader_bytes, self.writer_bytes)


def _replica(cost: Cost) -> int:
    return _REPLICA_BYTES + (_CUDA_BYTES if cost.machine.device == "cuda" else 0)


def _segmenting(cost: Cost, unit: Unit) -> int:
    """The ids, once more packed for the writer; what is on the way to them is on the GPU if there
    is one."""
    ids = 2 * cost.ids_bytes(unit)
    if cost.machine.device == "cuda":
        return ids + _BLEND_BYTES
    return ids + _BLEND_BYTES + cost.batch_bytes() + max(map(cost.live_bytes, unit.blocks))


def _writing(cost: Cost, unit: Unit) -> int:
    return _WRITING * cost.ids_bytes(unit) + _tiles(unit) * _tile_bytes(cost)


def _publishing(cost: Cost, units: Iterable[Unit]) -> Iterable[int]:
    """Of each shard: a record for each mask tile, and a unit's masks or a row group of them."""
    shards: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        shards[unit.shard].append(unit)
    for some in shards.values():
        tiles = sum(map(_tiles, some))
        ids = [cost.ids_bytes(unit) for unit in some]
        group = min(tiles, _ROW_GROUP_TILES) * MASK_TILE_PX**2 * (sum(ids) // _pixels(some))
        yield tiles * _tile_bytes(cost) + max(_PUBLISHED * max(ids), _ROW_GROUP_COPIES * group)


def _pixels(units: Iterable[Unit]) -> int:
    return sum(unit.pixels for unit in units)


def _tiles(unit: Unit) -> int:
    return sum(
        -(-block.core.width // MASK_TILE_PX) * -(-block.core.height // MASK_TILE_PX)
        for block in unit.blocks
    )


def _tile_bytes(cost: Cost) -> int:
    return _TILE_BYTES + cost.network.classes * _TILE_CLASS_BYTES


@dataclass(frozen=True)
class Division:
    """A machine's memory, divided among what runs at once."""

    need: Need
    machine: Machine
    tasks: int
    """Reads and writes at once; 0: one process does everything."""

    @classmethod
    def of(cls, need: Need, machine: Machine) -> Division | None:
        """With as many of a pool's replicas and of reads and writes at once as fit; None where too
        few do. A cluster may grow: its nodes must hold what the pool begins with."""
        if machine.nodes_bytes:
            return cls(need, machine, machine.tasks) if _placed(need, machine) else None
        for_ray = _set_aside(machine.replicas * need.replica_bytes) // max(1, need.task_bytes) + 1
        least = min(machine.tasks, max(LEAST_TASKS, for_ray))
        for tasks in range(machine.tasks, least - 1, -1):
            division = cls(need, machine, tasks)
            if division.total_bytes <= USABLE * machine.memory_bytes:
                return division
        if machine.replicas == machine.fewest:
            return None
        return cls.of(need, replace(machine, replicas=machine.replicas - 1))

    @property
    def store_bytes(self) -> int:
        """Of Ray's object store: rows that are read, that wait for a replica, that one works on,
        and their class ids."""
        rows = ROWS_PER_REPLICA * self.machine.replicas + self.tasks
        return max(_LEAST_STORE_BYTES, math.ceil(rows * self.need.row_bytes / _STORE_USABLE))

    @property
    def schedulable_bytes(self) -> int:
        """Ray's logical resource: every replica always fits, and beside them so many tasks."""
        replicas = self.machine.replicas * self.need.replica_bytes
        return replicas + max(self.tasks * self.need.task_bytes, _set_aside(replicas))

    @property
    def total_bytes(self) -> int:
        """Of this machine, at most."""
        if not self.tasks:
            return self.need.local_bytes
        replicas, tasks = self.machine.replicas, self.tasks
        ours = replicas * self.need.replica_bytes + tasks * self.need.task_bytes
        ray = _RAY_BYTES + replicas * _RAY_REPLICA_BYTES
        return self.need.driver_bytes + ours + self.store_bytes + ray

    @property
    def own_bytes(self) -> dict[str, int]:
        """Of one process of each kind, and of the object store, which they share."""
        need = self.need
        if not self.tasks:
            return {"driver": need.local_bytes}
        return {
            "driver": need.driver_bytes,
            "replica": need.replica_bytes,
            "reader": need.reader_bytes,
            "writer": need.writer_bytes,
            "object_store": self.store_bytes,
        }


def _placed(need: Need, machine: Machine) -> bool:
    """Whether a joined cluster has room for every replica and one task more, however they fall,
    and Ray Data for its reads."""
    slot = max(need.replica_bytes, need.task_bytes, 1)
    room = sum(node // slot for node in machine.nodes_bytes) > machine.fewest
    replicas_bytes = machine.fewest * need.replica_bytes
    return room and replicas_bytes + _set_aside(replicas_bytes) <= sum(machine.nodes_bytes)


def _set_aside(replicas_bytes: int) -> int:
    """Ray Data sets an eighth of the memory aside for reads and another one for writes, and lets
    neither begin where that does not leave the replicas theirs."""
    return math.ceil(replicas_bytes / 3)


def division_of(cost: Cost, units: Sequence[Unit], remedy: str | None = None) -> Division:
    """Raises UsageError where the units do not fit."""
    need, machine = Need.of(cost, units), cost.machine
    division = Division.of(need, machine) if units else Division(need, machine, tasks=0)
    if division is not None:
        return division
    unit = max(units, key=lambda unit: 2 * cost.row_bytes(unit) + _segmenting(cost, unit))
    machine = replace(machine, replicas=machine.fewest)
    least = Division(need, machine, min(machine.tasks, LEAST_TASKS))
    if machine.nodes_bytes:
        has = ", ".join(_gb(node) for node in machine.nodes_bytes)
        what = (
            f"{machine.replicas} replicas of {_gb(need.replica_bytes)} and a task of"
            f" {_gb(need.task_bytes)} do not fit on the cluster's nodes ({has} for processes)"
        )
    else:
        each = ", ".join(f"{name} {_gb(size)}" for name, size in least.own_bytes.items())
        what = (
            f"{_gb(least.total_bytes)} are needed with {machine.replicas} replicas ({each}), but"
            f" only {_gb(USABLE * machine.memory_bytes)} of this machine's"
            f" {_gb(machine.memory_bytes)} may be used"
        )
    block = unit.blocks[0]
    raise UsageError(
        f"{block.scene.url}: block {block.core}: {what};"
        f" {remedy or 'use fewer --replicas or a machine with more memory'}"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"

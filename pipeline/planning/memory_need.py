"""What each process of a run takes at most.

Peaks of resident memory, from headers alone. What a process takes of its own is counted apart from
the pages of Ray's object store that it touches: these are there once, however many touch them.
Knows no library; the constants were measured (bench/promises/memory.py;
Linux, Python 3.11, torch 2.13).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.planning.cost import Cost
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Block, Unit

_WORKER_BYTES = 300_000_000
"""Interpreter, Ray's worker, GDAL, s3fs, pyarrow: 240 MB and what stays between two units, or two
shards."""
_COMPILED_BYTES = 120_000_000
"""Beside a GPU also numba, and the loop of class_sums_compiled.py: 115 MB."""
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
"""Of a strip that is blended: blend._LIVE_VALUES in a dozen forms where torch does it, or a chunk's
sums, blend_cpu.CHUNK_BYTES, and their tables."""
_SEGMENT_BYTES, _SEGMENT_PX_BYTES = 800, 16
"""Of a segment's group of windows, and of each of its pixels: lattice.Group. About twice what was
measured (9,000 px: 72 MB of 132 with 33/2 px, 9.9 of 19 with 65/8)."""
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


@dataclass(frozen=True)
class MemoryNeed:
    """Predicted peaks, each of one process with the unit that asks for most; without what is
    touched of the object store."""

    driver_bytes: int
    replica_bytes: int
    reader_bytes: int
    writer_bytes: int
    publisher_bytes: int
    """With the shard that asks for most."""
    row_bytes: int
    """Of the largest unit's pixels in the object store."""
    local_bytes: int
    """Of the one process of the local runner."""

    @classmethod
    def of(cls, cost: Cost, units: Sequence[Unit]) -> MemoryNeed:
        """Of the largest of the units, and of publishing their shards."""
        if not units:
            return cls(0, 0, 0, 0, 0, 0, 0)
        weights = cost.network.weights_bytes
        row = max(map(cost.row_bytes, units))
        read, segment = _GDAL_BYTES + 2 * row, max(segmenting(cost, unit) for unit in units)
        write = max(_writing(cost, unit) for unit in units)
        books, publish = len(units) * _UNIT_BYTES, max(_publishing(cost, units))
        loading, loaded = math.ceil(_LOADING * weights), math.ceil(_LOADED * weights)
        local = max(loading, loaded + read + max(segment, write, books + publish))
        return cls(
            driver_bytes=_DRIVER_BYTES + max(loading, books + write),
            replica_bytes=_replica(cost) + max(loading, loaded + segment),
            reader_bytes=_worker(cost) + read,
            writer_bytes=_worker(cost) + write,
            publisher_bytes=_worker(cost) + publish,
            row_bytes=row,
            local_bytes=_replica(cost) + local,
        )

    @property
    def task_bytes(self) -> int:
        """Of a process that reads or writes: Ray has one do both."""
        return max(self.reader_bytes, self.writer_bytes)


def _worker(cost: Cost) -> int:
    return _WORKER_BYTES + (_COMPILED_BYTES if cost.machine.device == "cuda" else 0)


def _replica(cost: Cost) -> int:
    return _REPLICA_BYTES + (_CUDA_BYTES if cost.machine.device == "cuda" else 0)


def segmenting(cost: Cost, unit: Unit) -> int:
    """The ids, once more packed for the writer; what is on the way to them is on the GPU if there
    is one."""
    ids = 2 * cost.ids_bytes(unit) + max(_blending(cost, block) for block in unit.blocks)
    if cost.machine.device == "cuda":
        return ids
    return ids + cost.batch_bytes() + max(map(cost.live_bytes, unit.blocks))


def _blending(cost: Cost, block: Block) -> int:
    """A strip, the sums of one segment each way, which are not divided further, and all segments:
    of two of them for each stride every window may be a group of its own."""
    window, stride = cost.settings.window, cost.settings.stride
    groups = -(-window // stride) + 1
    sums = 2 * 4 * cost.network.classes * groups**2 * (stride // 4 + 3)
    axes_px = block.core.width + block.core.height
    return (
        _BLEND_BYTES + sums + axes_px * groups * (2 * _SEGMENT_BYTES // stride + _SEGMENT_PX_BYTES)
    )


def _writing(cost: Cost, unit: Unit) -> int:
    return _WRITING * cost.ids_bytes(unit) + _tiles(unit) * _tile_bytes(cost)


def _publishing(cost: Cost, units: Iterable[Unit]) -> Iterable[int]:
    """Of each shard: its units, a record for each mask tile, and a unit's masks or a row group of
    them."""
    shards: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        shards[unit.shard].append(unit)
    for some in shards.values():
        tiles = sum(map(_tiles, some))
        ids = [cost.ids_bytes(unit) for unit in some]
        group = min(tiles, _ROW_GROUP_TILES) * MASK_TILE_PX**2 * (sum(ids) // _pixels(some))
        rows = len(some) * _UNIT_BYTES + tiles * _tile_bytes(cost)
        yield rows + max(_PUBLISHED * max(ids), _ROW_GROUP_COPIES * group)


def _pixels(units: Iterable[Unit]) -> int:
    return sum(unit.pixels for unit in units)


def _tiles(unit: Unit) -> int:
    return sum(
        -(-block.core.width // MASK_TILE_PX) * -(-block.core.height // MASK_TILE_PX)
        for block in unit.blocks
    )


def _tile_bytes(cost: Cost) -> int:
    return _TILE_BYTES + cost.network.classes * _TILE_CLASS_BYTES

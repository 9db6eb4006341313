"""What each process of a run needs at most: peaks of resident memory, from headers alone.

A process's own memory is counted separately from the pages of Ray's object store that it touches:
these exist once, however many processes touch them. Knows no library; the constants were measured
(bench/promises/memory.py; Linux, Python 3.11, torch 2.13).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from pipeline.planning.workload import Workload
from pipeline.settings import GDAL_CACHE_BYTES, MASK_TILE_PX, ROW_GROUP_ROWS
from pipeline.unit import Block, Unit

_WORKER_BYTES = 300_000_000
"""A process that reads, writes or publishes: interpreter, Ray's worker, GDAL, s3fs, pyarrow. 240 MB
and what stays between two units, or two shards."""
_COMPILED_BYTES = 120_000_000
"""Additional memory of such a process beside a GPU: numba, and the loop of class_sums_compiled.py.
Measured: 115 MB."""
_REPLICA_BYTES = 900_000_000
"""A replica's process: as _WORKER_BYTES, with torch and what its first window loads, and numba:
185 MB while it compiles."""
_DRIVER_BYTES = 650_000_000
"""The process of `swath run`."""
_CUDA_BYTES = 3_000_000_000
"""Additional host memory of a process that uses a GPU. Assumed, not measured."""
_LOADING = 2.5
"""Copies of the weights while a checkpoint is read; 2.2 measured."""
_LOADED = 1.3
"""Copies of the weights from then on; 1.1 measured."""
_BLEND_BYTES = 60_000_000
"""A strip while it is blended: blend_plain._LIVE_VALUES in a dozen forms with torch, or the sums of
a chunk, blend_cpu.CHUNK_BYTES; and their tables."""
_SPAN_BYTES = 800
"""A group of windows in the blend's tables (bilinear.WindowGroup). This and _SPAN_PX_BYTES are
about twice what was measured (9,000 px: 72 MB of 132 with 33/2 px, 9.9 of 19 with 65/8)."""
_SPAN_PX_BYTES = 16
"""A pixel of such a group."""
_WRITING = 7
"""Copies of the class ids while a unit's file is made; 5.3 if they compress to a third."""
_PUBLISHED = 2
"""Copies of a unit's class ids while its masks are written to the spool."""
_ROW_GROUP_COPIES = 6
"""Copies of a row group of masks until it is written."""
_STORAGE_COPIES = 2.4
"""Copies of a storage tile while GDAL reads from it: decoded with all its bands, one of its bands,
and as it is stored. Measured with three bands: 2.33 if they do not compress, else 1.33."""
_SPARE_BYTES = 1 << 30
"""What reading a unit may take in addition to twice its predicted memory."""
_TILE_BYTES = 2_000
"""The row of a mask tile as Python objects, without its classes."""
_TILE_CLASS_BYTES = 700
"""A class in such a row."""
_UNIT_BYTES = 12_000
"""A unit in the plan and in Ray Data's records."""


@dataclass(frozen=True)
class MemoryNeed:
    """Predicted peaks of one process of each kind, each with the unit that needs most; without the
    pages of the object store that it touches."""

    driver_bytes: int
    replica_bytes: int
    reader_bytes: int
    writer_bytes: int
    publisher_bytes: int
    """Peak with the shard that needs most."""
    row_bytes: int
    """Size of the largest unit's pixels in the object store."""
    local_bytes: int
    """Peak of the only process of the local runner."""
    loop_bytes: int
    """Peak of a plain loop in a process of its own, which publishes nothing."""
    publishing_driver_bytes: int
    """Peak of the driver beside such a loop: it publishes."""

    @classmethod
    def of(cls, workload: Workload, units: Sequence[Unit]) -> MemoryNeed:
        """The needs of the largest units, and of publishing their shards."""
        if not units:
            return cls(*[0] * len(fields(cls)))
        weights = workload.network.weights_bytes
        row = max(map(workload.row_bytes, units))
        read = GDAL_CACHE_BYTES + max(reading_bytes(workload, unit) for unit in units)
        segment = max(segmenting_bytes(workload, unit) for unit in units)
        write = max(_writing_bytes(workload, unit) for unit in units)
        plan, publish = len(units) * _UNIT_BYTES, max(_publishing_bytes(workload, units))
        loading, loaded = math.ceil(_LOADING * weights), math.ceil(_LOADED * weights)
        local = max(loading, loaded + read + max(segment, write, plan + publish))
        loop = max(loading, loaded + read + max(segment, write))
        worker, replica = _WORKER_BYTES, _REPLICA_BYTES
        if workload.machine.device == "cuda":
            worker, replica = worker + _COMPILED_BYTES, replica + _CUDA_BYTES
        return cls(
            driver_bytes=_DRIVER_BYTES + plan + write,
            replica_bytes=replica + max(loading, loaded + segment),
            reader_bytes=worker + read,
            writer_bytes=worker + write,
            publisher_bytes=worker + publish,
            row_bytes=row,
            local_bytes=replica + local,
            loop_bytes=replica + loop,
            publishing_driver_bytes=_DRIVER_BYTES + plan + publish,
        )

    @property
    def reading_limit_bytes(self) -> int:
        """What reading a unit may allocate at most: far more than predicted is an input's fault."""
        return 2 * self.reader_bytes + _SPARE_BYTES

    @property
    def task_bytes(self) -> int:
        """Peak of a process that reads or writes: Ray uses the same one for both."""
        return max(self.reader_bytes, self.writer_bytes)


def reading_bytes(workload: Workload, unit: Unit) -> int:
    """What reading a unit takes beside GDAL's cache: its pixels, a copy of them or the stored
    values that they are made from, and the largest storage tile that they are read from."""
    row = workload.row_bytes(unit)
    storage_bytes = max(block.scene.storage_bytes for block in unit.blocks)
    return row + max(row, workload.stored_bytes(unit)) + math.ceil(_STORAGE_COPIES * storage_bytes)


def segmenting_bytes(workload: Workload, unit: Unit) -> int:
    """A replica's peak beside its weights: the unit's ids, twice because they are packed for the
    writer, and what computes them, unless that is on a GPU."""
    blending = max(_blending_bytes(workload, block) for block in unit.blocks)
    on_host = 2 * workload.ids_bytes(unit) + blending
    if workload.machine.device == "cuda":
        return on_host
    return on_host + workload.batch_bytes() + max(map(workload.live_bytes, unit.blocks))


def _blending_bytes(workload: Workload, block: Block) -> int:
    """A strip, the sums of one span in each direction, which are not divided further, and all
    spans: each window may be a group of its own in two of them per stride."""
    window, stride = workload.settings.window, workload.settings.stride
    groups = -(-window // stride) + 1
    sums_bytes = 2 * 4 * workload.network.classes * groups**2 * (stride // 4 + 3)
    axes_px = block.core.width + block.core.height
    px_bytes = groups * (2 * _SPAN_BYTES // stride + _SPAN_PX_BYTES)
    return _BLEND_BYTES + sums_bytes + axes_px * px_bytes


def _writing_bytes(workload: Workload, unit: Unit) -> int:
    return _WRITING * workload.ids_bytes(unit) + _tiles(unit) * _tile_bytes(workload)


def _publishing_bytes(workload: Workload, units: Iterable[Unit]) -> Iterator[int]:
    """The peak of publishing each shard: its units, a record for each mask tile, and the masks of a
    unit or of a row group."""
    shards: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        shards[unit.shard].append(unit)
    for members in shards.values():
        tiles = sum(map(_tiles, members))
        ids = [workload.ids_bytes(unit) for unit in members]
        px_bytes = sum(ids) // sum(unit.pixels for unit in members)
        row_group = min(tiles, ROW_GROUP_ROWS) * MASK_TILE_PX**2 * px_bytes
        records = len(members) * _UNIT_BYTES + tiles * _tile_bytes(workload)
        yield records + max(_PUBLISHED * max(ids), _ROW_GROUP_COPIES * row_group)


def _tiles(unit: Unit) -> int:
    """Mask tiles in a unit."""
    return sum(
        -(-block.core.width // MASK_TILE_PX) * -(-block.core.height // MASK_TILE_PX)
        for block in unit.blocks
    )


def _tile_bytes(workload: Workload) -> int:
    return _TILE_BYTES + workload.network.classes * _TILE_CLASS_BYTES

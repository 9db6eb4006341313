"""Large storage tiles and strips: in the forecast of memory, and decoded as seldom as possible."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from pipeline.errors import UsageError
from pipeline.imagery.pixels import read_pixels
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed, reading_bytes
from pipeline.planning.planner import Planner
from pipeline.planning.workload import Network, Workload
from pipeline.scene import Rect, Scene
from pipeline.settings import GDAL_CACHE_BYTES, Execution, Settings
from pipeline.unit import Block, Unit
from tests.support.rasters import SCALED, scene_of, write_raster

GB = 10**9


def write(path: Path, count: int, height: int, width: int, **options: Any) -> Scene:
    """A raster of zeros, which compress to next to nothing."""
    dtype = options.pop("dtype", "uint8")
    return scene_of(write_raster(path, np.zeros((count, height, width), dtype), **options))


def tiled(edge: int) -> dict[str, Any]:
    return {"tiled": True, "blockxsize": edge, "blockysize": edge, "compress": "deflate"}


STORED: dict[str, tuple[tuple[int, int, int], dict[str, Any], tuple[int, int], int]] = {
    "tiles": ((3, 300, 400), tiled(256), (256, 256), 256 * 256 * 3),
    "tiles of ten bands": ((10, 300, 400), tiled(256), (256, 256), 256 * 256 * 10),
    "planes": ((3, 300, 400), {**tiled(256), "interleave": "band"}, (256, 256), 256 * 256),
    "16 bits": ((3, 300, 400), {**tiled(256), "dtype": "uint16"}, (256, 256), 256 * 256 * 6),
    "strips": ((3, 300, 400), {"blockysize": 128, "compress": "lzw"}, (128, 400), 128 * 400 * 3),
    "one small strip": ((3, 30, 40), {"compress": "lzw"}, (30, 40), 30 * 40 * 3),
    "plain strips": ((3, 300, 400), {"blockysize": 8}, (8, 400), 8 * 400 * 3),
    "one large strip": (
        (3, 4000, 3000),
        {"blockysize": 4000, "compress": "deflate"},
        (4000, 3000),
        3000 * 3,
    ),
    "one plain strip": ((3, 4000, 3000), {"blockysize": 4000}, (1, 3000), 3000 * 3),
    "png": ((3, 300, 400), {"driver": "PNG"}, (0, 0), 0),
    "jpeg": ((3, 300, 400), {"driver": "JPEG"}, (0, 0), 0),
}


@pytest.mark.parametrize("name", STORED)
def test_what_is_decoded_at_once_is_known(tmp_path: Path, name: str) -> None:
    (count, height, width), options, size_px, size_bytes = STORED[name]
    suffix = {"PNG": "png", "JPEG": "jpg"}.get(options.get("driver", ""), "tif")
    if suffix != "tif":
        options = {**options, "crs": None, "transform": None}
    scene = write(tmp_path / f"a.{suffix}", count, height, width, **options)
    assert (scene.storage_px, scene.storage_bytes) == (size_px, size_bytes)


PEAK = """
import re, sys
from pathlib import Path
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Rect
from tests.support.rasters import scene_of

def peak():  # of this program; that of getrusage includes the process that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

scene = scene_of(Path(sys.argv[1]))
before = peak()
read_pixels(scene, Rect(0, 0, 512, 512))
print(peak() - before)
"""


@pytest.mark.parametrize("compresses", [True, False])
def test_reading_from_a_large_tile_takes_what_is_predicted(
    tmp_path: Path, compresses: bool
) -> None:
    values = np.zeros((3, 5120, 5120), np.uint8)
    if not compresses:
        values[:] = np.random.default_rng(0).integers(0, 256, values.shape, np.uint8)
    path = write_raster(tmp_path / "a.tif", values, zlevel=1, **tiled(5120))
    scene = scene_of(path)
    command = [sys.executable, "-c", PEAK, str(path)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    unit = Unit("", (Block(scene, Rect(0, 0, 512, 512)),))
    predicted = reading_bytes(workload(16 * GB), unit)
    assert scene.storage_bytes < peak < predicted + GDAL_CACHE_BYTES


def workload(memory_bytes: int, replicas: int = 2, tasks: int = 2) -> Workload:
    network = Network(classes=5, gflop_per_window=8.2, weights_bytes=10**7, bytes_per_px=300)
    return Workload(SCALED_BATCH, Machine("cpu", replicas, memory_bytes, tasks), network)


SCALED_BATCH = replace(SCALED, batch=1)


def scene(width: int, height: int, storage_px: tuple[int, int], *, striped: bool) -> Scene:
    return Scene(
        scene_id="a.tif", url="/in/a.tif", version="1", sidecars=(), width=width, height=height,
        bands=(1, 2, 3), dtype="uint8", nodata=None, crs=None, transform=(1, 0, 0, 0, 1, 0),
        datetime=None, striped=striped, storage_px=storage_px,
        storage_bytes=3 * storage_px[0] * storage_px[1],
    )  # fmt: skip


def planned(planner: Planner, *scenes: Scene) -> list[Block]:
    shards = planner.shards(scenes, (), 0)
    return [block for shard in shards for unit in shard.units for block in unit.blocks]


def test_a_tile_that_does_not_fit_into_memory_is_refused_with_its_cure() -> None:
    one_tile = scene(16_384, 16_384, (16_384, 16_384), striped=False)
    small = replace(scene(3000, 3000, (256, 256), striped=False), scene_id="b", url="/in/b.tif")
    with pytest.raises(UsageError) as refusal:
        planned(Planner(workload(12 * GB), Execution()), small, one_tile)
    assert str(refusal.value).endswith(
        " of /in/a.tif; /in/a.tif is stored in parts of 0.8 GB, and a part is decoded as a whole:"
        " convert it, e.g. gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT"
    )
    cured = replace(one_tile, storage_px=(256, 256), storage_bytes=3 * 256 * 256)
    assert planned(Planner(workload(12 * GB), Execution()), small, cured)
    assert planned(Planner(workload(64 * GB), Execution()), small, one_tile)


def test_without_large_tiles_a_refusal_names_a_block() -> None:
    tiles = scene(30_000, 30_000, (256, 256), striped=False)
    with pytest.raises(UsageError, match=r"use --block \d+$"):
        planned(Planner(workload(24 * GB), Execution(block=29_696)), tiles)


def doubts(blocks: list[Block]) -> list[str]:
    return [d.detail for d in blocks[0].scene.doubts if d.kind == "storage_tiles"]


def test_tiles_that_blocks_decode_again_and_again_are_noted() -> None:
    planner = Planner(workload(64 * GB), Execution(block=2048))
    blocks = planned(planner, scene(16_384, 16_384, (16_384, 16_384), striped=False))
    assert doubts(blocks) == [f"16384 x 16384 px, decoded about {len(blocks)} times"]
    assert len(blocks) == 64
    assert not doubts(planned(planner, scene(16_384, 16_384, (1024, 1024), striped=False)))
    assert not doubts(planned(planner, scene(16_384, 16_384, (0, 0), striped=True)))


def strips(blocks: list[Block], height: int) -> float:
    """How often a strip of this height is decoded for the cores of the blocks, on average."""
    cores = [block.core for block in blocks]
    decoded = sum((core.row_end - 1) // height - core.row_off // height + 1 for core in cores)
    return decoded / -(-cores[-1].row_end // height)


def test_strips_that_are_taller_than_a_block_become_blocks() -> None:
    planner = Planner(workload(64 * GB), Execution())
    low = planned(planner, scene(8192, 49_152, (512, 8192), striped=True))
    tall = planned(planner, scene(8192, 49_152, (6144, 8192), striped=True))
    assert low[0].core.height < tall[0].core.height == 6144
    assert strips(tall, 6144) == 1
    assert not doubts(tall)
    odd = planned(planner, scene(8192, 49_152, (5000, 8192), striped=True))
    assert odd[0].core.height == 6144
    assert strips(odd, 5000) <= 2


def test_strips_stay_divided_where_a_block_would_be_too_large() -> None:
    whole = scene(8192, 8192, (8192, 8192), striped=True)
    for planner in (
        Planner(workload(64 * GB, replicas=4), Execution()),  # work for one of four
        Planner(workload(64 * GB), Execution(block=512)),
    ):
        blocks = planned(planner, whole)
        assert len(blocks) > 4
        assert doubts(blocks)
    alone = Planner(workload(64 * GB, replicas=1), Execution())
    assert [block.core for block in planned(alone, whole)] == [whole.rect]
    assert not doubts(planned(alone, whole))


def test_an_aligned_block_must_fit_into_memory() -> None:
    striped = scene(12_288, 73_728, (9216, 12_288), striped=True)
    heights = set()
    for memory_gb in (7, 64):
        planner = Planner(workload(memory_gb * GB, replicas=1), Execution())
        blocks = planned(planner, replace(striped, storage_bytes=12_288 * 3))
        heights.add(blocks[0].core.height)
        units = [Unit("", (block,)) for block in blocks]
        assert MemoryBudget.of(MemoryNeed.of(planner.workload, units), planner.workload.machine)
        assert bool(doubts(blocks)) == (memory_gb == 7)
    assert len(heights) == 2


def test_a_file_of_one_large_strip_is_read_right_wherever_a_block_starts(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 9, (3, 2048, 3000), np.uint8)
    path = write_raster(tmp_path / "a.tif", values, blockysize=2048, compress="deflate")
    stored = scene_of(path, Settings())
    assert stored.storage_px == (2048, 3000)
    for rect in (Rect(0, 1500, 3000, 548), Rect(100, 3, 50, 60), Rect(0, 0, 3000, 2048)):
        rows, cols = np.s_[rect.row_off : rect.row_end], np.s_[rect.col_off : rect.col_end]
        assert np.array_equal(read_pixels(stored, rect).values_CHW, values[:, rows, cols])
    with rasterio.open(path) as src:
        assert src.block_shapes[0] == (1, 3000)

"""Outputs of jobs whose cluster has died, of any size, without their computation.

Real: the plan (Planner, for MiT-B5 on a CPU), every record, written by Output, and the files of all
waiting units (Work.finish). Made up: the headers, which have no files, the classes of the waiting
units, and that committed shards have no tables.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.failure import Failure
from pipeline.grid import mask_tiles
from pipeline.job import Job
from pipeline.output.layout import Output
from pipeline.output.publishing import commit_of
from pipeline.output.shard import Shard
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import budget_memory
from pipeline.planning.planner import Planner
from pipeline.planning.workload import Network, Workload
from pipeline.scene import Scene
from pipeline.settings import Execution, Settings
from pipeline.stages import Work
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.unit import Block, SegmentedUnit, Stitched, Unit

TILE_PX, CLASSES, WRITERS = 512, 150, 8
SIDE_BLOCKS = 64
B5 = Network(CLASSES, 145.3, 340_000_000, 550)
SETTINGS = Settings(batch=1)
COST = Workload(SETTINGS, Machine("cpu", 64, 10**12, tasks=128), B5)
NAMES = tuple(f"class {k}" for k in range(CLASSES))
JOB = Job(SETTINGS, "s3://models/b5", "0" * 64, "cpu", NAMES, (None,) * CLASSES)
COMMITTED, HALF_DONE = 0.7, 4
"""The share of shards that are committed, and the number of further shards that are half done."""


@dataclass(frozen=True)
class UnfinishedOutput:
    """An output, and the status that it should have."""

    url: str
    expected: dict[str, Any]
    """Fields of Status and their values."""
    waiting: int
    """Number of units that have their file and are not published."""


def planner(shape: str) -> Planner:
    """A planner of large scenes in "blocks", or of small ones in "bundles"."""
    return Planner(COST, Execution(block=TILE_PX if shape == "blocks" else None))


def plan_shards(shape: str, units: int, side_blocks: int = SIDE_BLOCKS) -> list[Shard]:
    """Shards of about `units` units."""
    if shape == "blocks":
        count = max(1, round(units / side_blocks**2))
        scenes = [scene_header(n, side_blocks * TILE_PX) for n in range(count)]
        return list(planner(shape).shards(scenes, (), 0))
    probe = planner(shape).shards([scene_header(n, TILE_PX) for n in range(10_000)], (), 0)
    scenes_per_unit = 10_000 / sum(len(shard.units) for shard in probe)
    scenes = [scene_header(n, TILE_PX) for n in range(round(scenes_per_unit * units))]
    return list(planner(shape).shards(scenes, (), 0))


def scene_header(number: int, edge_px: int) -> Scene:
    """A scene as `describe` returns it for a Sentinel-2 product in a bucket."""
    name = f"2026/11/{number % 28 + 1:02d}/S2B_MSIL2A_T33UUP_{number:07d}_TCI.tif"
    return Scene(
        scene_id=name,
        url=f"s3://imagery/sentinel-2/{name}",
        version=f'"{number:032x}"',
        sidecars=(),
        width=edge_px,
        height=edge_px,
        bands=(1, 2, 3),
        dtype="uint8",
        nodata=None,
        crs="EPSG:32633",
        transform=(10.0, 0.0, 399_960.0 + number, 0.0, -10.0, 5_800_020.0),
        datetime="2026-11-26T10:11:09+00:00",
        striped=False,
    )


def write_unfinished_output(url: str, shards: list[Shard]) -> UnfinishedOutput:
    """Write the output of a job whose cluster has died, unless it exists."""
    done = round(COMMITTED * len(shards))
    committed, half = shards[:done], shards[done : done + HALF_DONE]
    waiting = [unit for shard in half for unit in shard.units[::2]]
    failures = [
        failed(shard.units[::10]) if n % 10 == 0 else [] for n, shard in enumerate(committed)
    ]
    if not Path(url).exists():
        out = Output.create(url, JOB)
        out.append(shards)
        work = Work(JOB, DEFAULT_ACCESS, budget_memory(COST, shards[0].units), 900.0, url)
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(partial(commit, out), committed, failures))
            list(pool.map(partial(finish, work), range(len(waiting)), waiting))
        for day in range(3):
            out.write_receipt(f"2026112{day}T000000.000000Z", receipt(url, day))
    ended = [unit for shard in committed for unit in shard.units] + waiting
    broken = [block for unit in waiting[::50] for block in unit.blocks[:1]]
    px = sum(b.core.pixels for b in broken) + sum(f.pixels for scenes in failures for f in scenes)
    expected = {
        "units": sum(len(shard.units) for shard in shards),
        "units_done": len(ended),
        "shards": len(shards),
        "shards_published": len(committed),
        "scenes": sum(len(shard.scenes) for shard in shards),
        "scenes_published": sum(len(shard.scenes) for shard in committed),
        "quarantined": sum(map(len, failures)),
        "quarantined_waiting": len(broken),
        "megapixels": sum(shard.pixels for shard in shards) / 1e6,
        "megapixels_done": (sum(unit.pixels for unit in ended) - px) / 1e6,
        "megapixels_quarantined": px / 1e6,
    }
    return UnfinishedOutput(url, expected, len(waiting))


def commit(out: Output, shard: Shard, failures: list[Failure]) -> None:
    out.commit(commit_of(shard, failures, []))


def failed(units: tuple[Unit, ...]) -> list[Failure]:
    return [failure(unit.blocks[0]) for unit in units]


def failure(block: Block) -> Failure:
    url = block.scene.url
    message = (
        f"{url}: window {block.core} cannot be decoded (TIFFReadEncodedTile failed); replace it"
    )
    return Failure(block.scene.scene_id, url, "read", str(block.core), "RasterioIOError", message)


def finish(work: Work, number: int, unit: Unit) -> None:
    """Write the file of a unit; in every 50th unit the first block has failed."""
    blocks = [
        failure(b) if number % 50 == i == 0 else stitched(b) for i, b in enumerate(unit.blocks)
    ]
    work.finish(SegmentedUnit(unit, tuple(blocks), 1, 0.1, 9.5, 0))


def stitched(block: Block) -> Stitched:
    """A block of two classes, half and half."""
    core = block.core
    ids_HW = np.zeros((core.height, core.width), np.uint8)
    ids_HW[: core.height // 2] = 7
    samples_TK = np.zeros((sum(1 for _ in mask_tiles(core)), CLASSES), np.int64)
    samples_TK[:, [0, 7]] = 8192
    return Stitched(ids_HW, samples_TK * 50_000, samples_TK)


def receipt(url: str, day: int) -> dict[str, Any]:
    """The record of a run, with the fields that `status` reports."""
    return {
        "started": f"2026-11-2{day}T00:00:00+00:00", "seconds": 3600.0, "ended": "stopped by hand",
        "output": url, "megapixels": 1000.0, "megapixels_per_s": 0.28, "bounded_by": "segment",
        "cost": None, "failures": [],
    }  # fmt: skip

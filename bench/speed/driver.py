"""How much work can one driver feed, and how fast are its shards published?

    python -m bench.speed.driver --work FOLDER [--units 1000] [--mpx 16] [--results PATH]

The flow of `swath run` on the embedded Ray, with two replicas that do next to nothing
(idle_stages.py). Small: many units of one 512-px window each, to see what a unit costs the driver
whatever is in it. Large: few units of real size, to see what their bytes cost. For each: units per
second in the steady state (from the first tenth of the units to the last), the driver's CPU
seconds, separately those of its main thread (which watches and counts), and the time of a task that
publishes. What other machines would do is done here, too, so the rate is a lower bound; the
driver's CPU time per unit sets its ceiling, for Python runs one thread at a time. Masks are of one
class, so they compress well.

Memory: what the driver holds in two runs whose plans differ in size, after the same number of
units. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin

from bench.support.idle_stages import (
    IdleSegmentStage,
    Publication,
    publications,
    timed_publish,
)
from bench.support.rounds import machine
from pipeline.api import run_request
from pipeline.cluster.stages import Stages
from pipeline.driver.request import Request
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from tests.support.checkpoints import save_small

TILE_PX, COLUMNS = 512, 40
SETTINGS = Settings(window=TILE_PX, stride=TILE_PX, batch=1)
STAGES = Stages(segment=IdleSegmentStage, publish=timed_publish)
REPLICAS = 2
H100_WINDOWS_PER_S = {"b0": 24_400, "b2": 6_800, "b5": 2_680}
"""Windows per second at 512 px by arithmetic: the GPU's peak over the GFLOP of a window. The aim is
half of that."""
STRIDE_PX = 384
SIZES_MPX = (16, 64, 150)
PUBLISHERS = (1, 4, 16)
PLANNED, STOPPED_AFTER = (2_000, 10_000), 200
"""Planned units of the two runs whose memory is compared, and the units after which it is."""


@dataclass(frozen=True)
class Moment:
    """A moment of a run, as its driver sees it."""

    at_s: float
    cpu_s: float
    main_thread_s: float
    resident_bytes: int
    units: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--mpx", type=float, default=16)
    parser.add_argument("--large", type=int, default=12)
    parser.add_argument("--held-with", type=int, help="print the memory held with this many units")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    checkpoint = save_small(options.work / "model")
    if options.held_with:
        print(held_bytes(options.work, checkpoint, options.held_with))
        return
    edge = round((options.mpx * 1e6) ** 0.5 / TILE_PX) * TILE_PX
    small = measure(options.work / "small", checkpoint, options.units, TILE_PX)
    large = measure(options.work / "large", checkpoint, options.large, edge)
    result = {
        **machine("cpu", 1),
        "replicas": REPLICAS,
        "small": small,
        "large": large,
        "ceiling_units_per_s": round(1000 / small["driver_cpu_ms_per_unit"], 1),
        "feeds": feeds(small, large),
        "publishing": {
            "tasks": {n: round(n * large["publishing_mpx_per_s"]) for n in PUBLISHERS},
            "what": "Mpx/s of this many tasks at once, each on its own core: a multiple of one's",
        },
        "memory": memory(options.work / "memory"),
    }
    document = json.dumps(result, indent=1)
    if options.results:
        options.results.write_text(document + "\n")
    print(json.dumps(result))


def measure(work: Path, checkpoint: str, units: int, edge: int) -> dict[str, Any]:
    """The record of one run over one scene of about `units` blocks with this edge in pixels."""
    columns = min(units, COLUMNS)
    rows = -(-units // columns)
    write_striped(work / "in" / "scene.tif", columns * edge, rows * edge)
    moments: list[Moment] = []

    def watch(progress: Progress) -> None:
        if not moments or progress.done_units > moments[-1].units:
            moments.append(moment(progress.done_units))

    execution = Execution(block=edge, replicas=REPLICAS)
    request = Request([str(work / "in")], checkpoint, SETTINGS, execution)
    receipt = run_request(request, str(work / "out"), watch, STAGES)
    assert receipt.units_computed == columns * rows
    steady = [m for m in moments if receipt.units / 10 <= m.units]
    first, last = steady[0], steady[-1]
    done, seconds = last.units - first.units, last.at_s - first.at_s
    mpx = edge**2 / 1e6
    return {
        "units": receipt.units,
        "mpx_per_unit": round(mpx, 2),
        "seconds": round(seconds, 1),
        "units_per_s": round(done / seconds, 2),
        "mpx_per_s": round(done * mpx / seconds, 1),
        "driver_cpu_ms_per_unit": round(1000 * (last.cpu_s - first.cpu_s) / done, 2),
        "of_that_main_thread_ms": round(
            1000 * (last.main_thread_s - first.main_thread_s) / done, 2
        ),
        "driver_grows_by_bytes_per_unit": round(
            (last.resident_bytes - first.resident_bytes) / done
        ),
        **publishing_cost(publications(str(work / "out"))),
    }


def publishing_cost(shards: list[Publication]) -> dict[str, float]:
    """The cost of publishing, which has processes of its own."""
    mpx = sum(shard.mpx for shard in shards)
    return {
        "shards": len(shards),
        "publishing_cpu_ms_per_mpx": round(1000 * sum(shard.cpu_s for shard in shards) / mpx, 2),
        "publishing_mpx_per_s": round(mpx / sum(shard.wall_s for shard in shards), 1),
    }


def moment(units: int) -> Moment:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * resource.getpagesize()
    return Moment(time.monotonic(), time.process_time(), time.thread_time(), resident, units)


def memory(work: Path) -> dict[str, Any]:
    """The memory of the driver, each time in a process of its own, and what it suggests for more
    units."""
    held = {}
    for units in PLANNED:
        command = [
            sys.executable,
            "-m",
            "bench.speed.driver",
            "--work",
            str(work),
            "--held-with",
            str(units),
        ]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        held[units] = int(process.stdout.split()[-1])
    (few, few_bytes), (many, many_bytes) = held.items()
    return {
        "driver_bytes_by_planned_units": held,
        "after_units": STOPPED_AFTER,
        "extrapolated_bytes_per_100000_units": round(
            (many_bytes - few_bytes) / (many - few) * 100_000
        ),
    }


def held_bytes(work: Path, checkpoint: str, units: int) -> int:
    """The memory of this process when STOPPED_AFTER units are done; then the run is stopped."""
    width, height = COLUMNS * TILE_PX, units // COLUMNS * TILE_PX
    write_striped(work / "in" / "scene.tif", width, height, empty=True)

    held: list[int] = []

    def watch(progress: Progress) -> None:
        assert progress.total_units == units
        if progress.done_units >= STOPPED_AFTER:
            held.append(moment(progress.done_units).resident_bytes)
            raise KeyboardInterrupt

    execution = Execution(block=TILE_PX, replicas=REPLICAS)
    request = Request([str(work / "in")], checkpoint, SETTINGS, execution)
    with suppress(KeyboardInterrupt):
        run_request(request, str(work / "out"), watch, STAGES)
    return held[0]


def write_striped(path: Path, width: int, height: int, *, empty: bool = False) -> None:
    """Write a tiled GeoTIFF of three bands, one color per row of tiles, which is small on
    disk. empty: a file without tiles, which reads as zeros."""
    path.parent.mkdir(parents=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(5e5, 5e6, 10, 10), tiled=True,
        blockxsize=TILE_PX, blockysize=TILE_PX, compress="zstd", bigtiff="yes", sparse_ok=empty,
    ) as file:  # fmt: skip
        for row in range(0, 0 if empty else height, TILE_PX):
            window = rasterio.windows.Window(0, row, width, TILE_PX)
            values = np.full((3, TILE_PX, width), 1 + row // TILE_PX % 250, np.uint8)
            file.write(values, window=window)


def feeds(small: dict[str, Any], large: dict[str, Any]) -> list[dict[str, Any]]:
    """For each size of units: the megapixels per second that one driver's CPU allows, the number of
    H100s at half of their rate that it feeds, and the number of tasks that publish as much.

    A large unit costs the driver no more than a small one: its pixels do not come here. (What it
    seems to cost more is the idling of the driver's threads between units.)
    """
    cpu_ms = small["driver_cpu_ms_per_unit"]
    h100_mpx_per_s = {
        size: windows / 2 * STRIDE_PX**2 / 1e6 for size, windows in H100_WINDOWS_PER_S.items()
    }
    rows = []
    for mpx in SIZES_MPX:
        rate = 1000 * mpx / cpu_ms
        rows.append(
            {
                "unit_mpx": mpx,
                "mpx_per_s": round(rate),
                "h100s": {size: round(rate / each, 1) for size, each in h100_mpx_per_s.items()},
                "published_by_tasks": math.ceil(rate / large["publishing_mpx_per_s"]),
            }
        )
    return rows


if __name__ == "__main__":
    main()

"""What one driver can feed, and how fast its shards are published.

    python -m bench.speed.driver --work FOLDER [--units 1000] [--mpx 16] [--results PATH]

The flow of `swath run` on the embedded Ray, with two replicas that do next to nothing (idle.py).
Small: many units of one 512-px window each: what a unit costs the driver, whatever is in it. Large:
few units of real size, to see what their bytes cost. Of each: units per second in the steady state
(from the first tenth of the units to the last), the driver's CPU seconds, those of its main thread
(which watches and counts) apart, and what a task that publishes took. What machines beside the
driver would do is done here, too, so the rate is a lower bound; the driver's CPU per unit is its
ceiling, for Python runs one thread at a time. Masks are of one class, so they compress well.

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

from bench.support.idle import IdleStage, Publication, publications, timed_publish
from bench.support.rounds import machine
from pipeline import api
from pipeline.cluster import flow, publishers
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from tests.support.checkpoints import save_small

TILE_PX, COLUMNS = 512, 40
SETTINGS = Settings(window=TILE_PX, stride=TILE_PX, batch=1)
REPLICAS = 2
H100_WINDOWS_PER_S = {"b0": 24_400, "b2": 6_800, "b5": 2_680}
"""By arithmetic, at 512 px: its peak over the GFLOP of a window. Half of that is aimed at."""
STRIDE_PX = 384
SIZES_MPX = (16, 64, 150)
PUBLISHERS = (1, 4, 16)
PLANNED, STOPPED_AFTER = (2_000, 10_000), 200
"""Units of the runs whose memory is compared."""


@dataclass(frozen=True)
class Moment:
    """Of a run, as its driver sees it."""

    at_s: float
    cpu_s: float
    main_thread_s: float
    resident_bytes: int
    units: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--mpx", type=float, default=16)
    parser.add_argument("--large", type=int, default=12)
    parser.add_argument("--held-with", type=int, help="print the memory held with so many units")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    vars(flow)["SegmentStage"] = IdleStage
    vars(publishers)["publish_shard"] = timed_publish
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    checkpoint = save_small(given.work / "model")
    if given.held_with:
        print(held_bytes(given.work, checkpoint, given.held_with))
        return
    edge = round((given.mpx * 1e6) ** 0.5 / TILE_PX) * TILE_PX
    small = measured(given.work / "small", checkpoint, given.units, TILE_PX)
    large = measured(given.work / "large", checkpoint, given.large, edge)
    result = {
        **machine("cpu", 1),
        "replicas": REPLICAS,
        "small": small,
        "large": large,
        "ceiling_units_per_s": round(1000 / small["driver_cpu_ms_per_unit"], 1),
        "feeds": feeds(small, large),
        "publishing": {
            "tasks": {n: round(n * large["publishing_mpx_per_s"]) for n in PUBLISHERS},
            "what": "Mpx/s of so many tasks at once, each on a core of its own: a multiple of one",
        },
        "memory": memory(given.work / "memory"),
    }
    document = json.dumps(result, indent=1)
    if given.results:
        given.results.write_text(document + "\n")
    print(json.dumps(result))


def measured(work: Path, checkpoint: str, units: int, edge: int) -> dict[str, Any]:
    """One run over one scene of so many blocks."""
    columns = min(units, COLUMNS)
    rows = -(-units // columns)
    write_striped(work / "in" / "scene.tif", columns * edge, rows * edge)
    moments: list[Moment] = []

    def watch(progress: Progress) -> None:
        if not moments or progress.done_units > moments[-1].units:
            moments.append(moment(progress.done_units))

    execution = Execution(block=edge, replicas=REPLICAS)
    given = [str(work / "in")], checkpoint, str(work / "out"), SETTINGS, execution
    receipt = api.run(*given, watch)
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
        **published(publications(str(work / "out"))),
    }


def published(some: list[Publication]) -> dict[str, float]:
    """What publishing took, in processes of its own."""
    mpx = sum(one.mpx for one in some)
    return {
        "shards": len(some),
        "publishing_cpu_ms_per_mpx": round(1000 * sum(one.cpu_s for one in some) / mpx, 2),
        "publishing_mpx_per_s": round(mpx / sum(one.wall_s for one in some), 1),
    }


def moment(units: int) -> Moment:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    resident = pages * resource.getpagesize()
    return Moment(time.monotonic(), time.process_time(), time.thread_time(), resident, units)


def memory(work: Path) -> dict[str, Any]:
    """Of the driver, each time in a process of its own, and what that says of more units."""
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
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        held[units] = int(done.stdout.split()[-1])
    (few, least), (many, most) = held.items()
    return {
        "driver_bytes_by_planned_units": held,
        "after_units": STOPPED_AFTER,
        "extrapolated_bytes_per_100000_units": round((most - least) / (many - few) * 100_000),
    }


def held_bytes(work: Path, checkpoint: str, units: int) -> int:
    """Of this process, after some of so many units; then the run is stopped."""
    width, height = COLUMNS * TILE_PX, units // COLUMNS * TILE_PX
    write_striped(work / "in" / "scene.tif", width, height, empty=True)

    held: list[int] = []

    def watch(progress: Progress) -> None:
        assert progress.total_units == units
        if progress.done_units >= STOPPED_AFTER:
            held.append(moment(progress.done_units).resident_bytes)
            raise KeyboardInterrupt

    execution = Execution(block=TILE_PX, replicas=REPLICAS)
    with suppress(KeyboardInterrupt):
        api.run([str(work / "in")], checkpoint, str(work / "out"), SETTINGS, execution, watch)
    return held[0]


def write_striped(path: Path, width: int, height: int, *, empty: bool = False) -> None:
    """A tiled GeoTIFF of three bands, one colour per row of tiles; small on disk. Empty: a file
    without tiles, which reads as zeros."""
    path.parent.mkdir(parents=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(5e5, 5e6, 10, 10), tiled=True,
        blockxsize=TILE_PX, blockysize=TILE_PX, compress="zstd", bigtiff="yes", sparse_ok=empty,
    ) as file:  # fmt: skip
        for row in range(0, 0 if empty else height, TILE_PX):
            here = rasterio.windows.Window(0, row, width, TILE_PX)
            values = np.full((3, TILE_PX, width), 1 + row // TILE_PX % 250, np.uint8)
            file.write(values, window=here)


def feeds(small: dict[str, Any], large: dict[str, Any]) -> list[dict[str, Any]]:
    """Megapixels per second that one driver's CPU allows at each size of units, how many H100s at
    half of the floor that is, and how many tasks at once publish as much.

    A unit costs the driver what a small one does: its pixels do not come here. (That it costs more
    per large unit is the idling of its threads between units.)
    """
    cpu_ms = small["driver_cpu_ms_per_unit"]
    one = {size: windows / 2 * STRIDE_PX**2 / 1e6 for size, windows in H100_WINDOWS_PER_S.items()}
    found = []
    for mpx in SIZES_MPX:
        rate = 1000 * mpx / cpu_ms
        found.append(
            {
                "unit_mpx": mpx,
                "mpx_per_s": round(rate),
                "h100s": {size: round(rate / each, 1) for size, each in one.items()},
                "published_by_tasks": math.ceil(rate / large["publishing_mpx_per_s"]),
            }
        )
    return found


if __name__ == "__main__":
    main()

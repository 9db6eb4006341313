"""What one driver can feed.

    python bench/driver.py --work FOLDER [--units 1000] [--mpx 16] [--results PATH]

The flow of `swath run` on the embedded Ray, with two replicas that do next to nothing (idle.py).
Small: many units of one 512-px window each: what a unit costs the driver, whatever is in it. Large:
few units of real size, to see what their bytes cost. Of each: units per second in the steady state
(from the first tenth of the units to the last), the driver's CPU seconds, those of its main thread
(which watches, counts and publishes) apart. What machines beside the
driver would do is done here, too, so the rate is a lower bound; the driver's CPU per unit is its
ceiling, for Python runs one thread at a time. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import numpy as np
import rasterio
from checkpoints import save_small
from idle import IdleStage
from rasterio.transform import from_origin
from rounds import machine

from pipeline import flow, job
from pipeline.receipt import Progress
from pipeline.settings import Execution, Settings

TILE_PX = 512
SETTINGS = Settings(window=TILE_PX, stride=TILE_PX, batch=1)
REPLICAS = 2
H100_WINDOWS_PER_S = {"b0": 24_400, "b2": 6_800, "b5": 2_680}
"""By arithmetic, at 512 px: its peak over the GFLOP of a window. Half of that is aimed at."""
STRIDE_PX = 384
SIZES_MPX = (16, 64, 150)


@dataclass(frozen=True)
class Moment:
    """Of a run, as its driver sees it."""

    at_s: float
    cpu_s: float
    main_thread_s: float
    units: int


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--mpx", type=float, default=16)
    parser.add_argument("--large", type=int, default=12)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    checkpoint = save_small(given.work / "model")
    vars(flow)["SegmentStage"] = IdleStage
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
    }
    document = json.dumps(result, indent=1)
    if given.results:
        given.results.write_text(document + "\n")
    print(json.dumps(result))


def measured(work: Path, checkpoint: str, units: int, edge: int) -> dict[str, Any]:
    """One run over one scene of so many blocks."""
    columns = min(units, 40)
    rows = -(-units // columns)
    width, height = columns * edge, rows * edge
    write_striped(work / "in" / "scene.tif", width, height)
    moments: list[Moment] = []

    def watch(progress: Progress) -> None:
        moments.append(moment(progress.done_units))

    execution = Execution(block=edge, replicas=REPLICAS)
    given = [str(work / "in")], checkpoint, str(work / "out"), SETTINGS, execution
    receipt = job.run(*given, watch)
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
    }


def moment(units: int) -> Moment:
    return Moment(time.monotonic(), time.process_time(), time.thread_time(), units)


def write_striped(path: Path, width: int, height: int) -> None:
    """A tiled GeoTIFF of one band, one colour per row of tiles; small on disk."""
    path.parent.mkdir(parents=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(5e5, 5e6, 10, 10), tiled=True,
        blockxsize=TILE_PX, blockysize=TILE_PX, compress="zstd", bigtiff="yes",
    ) as file:  # fmt: skip
        for row in range(0, height, TILE_PX):
            here = rasterio.windows.Window(0, row, width, TILE_PX)
            values = np.full((3, TILE_PX, width), 1 + row // TILE_PX % 250, np.uint8)
            file.write(values, window=here)


def feeds(small: dict[str, Any], large: dict[str, Any]) -> list[dict[str, Any]]:
    """Megapixels per second that one driver's CPU allows at each size of units, and how many H100s
    at half of the floor that is.

    A unit costs what a small one does, and its pixels what they cost the main thread. (The other
    threads handle no pixels; that they cost more per large unit is their idling between units.)
    """
    cpu_ms = small["driver_cpu_ms_per_unit"]
    main_ms = large["of_that_main_thread_ms"] - small["of_that_main_thread_ms"]
    per_mpx = main_ms / (large["mpx_per_unit"] - small["mpx_per_unit"])
    one = {size: windows / 2 * STRIDE_PX**2 / 1e6 for size, windows in H100_WINDOWS_PER_S.items()}
    found = []
    for mpx in SIZES_MPX:
        rate = 1000 * mpx / (cpu_ms + per_mpx * mpx)
        without = 1000 * mpx / cpu_ms
        found.append(
            {
                "unit_mpx": mpx,
                "mpx_per_s": round(rate),
                "h100s": {size: round(rate / each, 1) for size, each in one.items()},
                "mpx_per_s_if_others_published": round(without),
                "h100s_if_others_published": {
                    size: round(without / each, 1) for size, each in one.items()
                },
            }
        )
    return found


if __name__ == "__main__":
    main()

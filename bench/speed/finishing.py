"""How much CPU time per megapixel does a unit take from its class ids to its file?

    python -m bench.speed.finishing [--device cuda] [--size 4096] [--rounds 5] [--results PATH]

Class ids are random squares of 32, 8 or 1 px; a grid is in UTM (1 m), geographic or without a CRS.
`--device` is the kind of device that the ids are said to come from; none is used. `start_s` is the
time of the first mask tile of a process: libraries and, for cuda, the compiled loop from its cache.
To compare with another commit, run this file with PYTHONPATH set to that commit's tree. The last
line is one JSON document: medians in ms per megapixel, each with the slowest.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from pipeline.output.unit_file import unit_file
from pipeline.scene import Affine6, Rect, Scene
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Block, GpuUse, SegmentedUnit, Stitched, Unit, mask_dtype

GRIDS: dict[str, tuple[str | None, Affine6]] = {
    "UTM": ("EPSG:32633", (1, 0, 3e5, 0, -1, 5e6)),
    "geographic": ("EPSG:4326", (1e-5, 0, 10, 0, -1e-5, 50)),
    "no CRS": (None, (1, 0, 0, 0, 1, 0)),
}
CASES = [(1, 32), (19, 32), (19, 8), (19, 1), (150, 32), (300, 32)]
"""Numbers of classes, and sides of the squares in pixels."""


def segmented(grid: str, classes: int, side_px: int, size: int, device: str) -> SegmentedUnit:
    """One segmented block of `size` by `size` pixels."""
    rng, tiles = np.random.default_rng(0), (size // MASK_TILE_PX) ** 2
    squares = rng.integers(0, classes, (size // side_px, size // side_px))
    ids_HW = np.kron(squares, np.ones((side_px, side_px), int)).astype(mask_dtype(classes))
    confidence_TK = np.full((tiles, classes), 1000)
    crs, transform = GRIDS[grid]
    scene = Scene(
        scene_id="a",
        url="a",
        version="",
        sidecars=(),
        width=size,
        height=size,
        bands=(1, 2, 3),
        dtype="uint8",
        nodata=None,
        crs=crs,
        transform=transform,
        datetime=None,
        striped=False,
    )
    unit = Unit("000000", (Block(scene, Rect(0, 0, size, size)),))
    stitched = Stitched(ids_HW, confidence_TK, np.full((tiles, classes), 10))
    gpu = GpuUse(peak_bytes=1, busy=1.0) if device == "cuda" else None
    return SegmentedUnit(unit, (stitched,), 1, read_s=1.0, segment_s=1.0, retries=0, gpu=gpu)


def seconds(unit: SegmentedUnit) -> float:
    started = time.process_time()
    unit_file(unit)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", type=int, default=4096, help="edge of the block in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    tile = segmented("UTM", 19, 32, MASK_TILE_PX, options.device)
    report: dict[str, object] = {"size": options.size, "start_s": round(seconds(tile), 2)}
    for grid in GRIDS:
        for classes, side_px in CASES:
            unit = segmented(grid, classes, side_px, options.size, options.device)
            unit_file(unit)
            times = sorted(seconds(unit) / options.size**2 * 1e9 for _ in range(options.rounds))
            median, slowest = times[len(times) // 2], times[-1]
            report[f"{grid}, {classes} classes, {side_px} px"] = round(median, 1), round(slowest, 1)
    document = json.dumps(report)
    if options.results:
        options.results.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()

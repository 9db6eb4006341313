"""From the class ids of a unit to its file: CPU time per megapixel, by CRS, classes and runs.

    python -m bench.speed.finishing [--device cuda] [--size 4096] [--rounds 5] [--results PATH]

Class ids are random squares of 32, 8 or 1 px; a grid is in UTM (1 m), geographic or nowhere. The
device is that which would have segmented them; none is used. `start_s` is what the first mask tile
of a process takes: libraries and, for cuda, the compiled loop from its cache. To compare with
another commit, run this file with PYTHONPATH at its tree. The last line is one JSON document:
medians in ms per megapixel, each with the slowest.
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
"""Classes, and sides of the squares."""


def segmented(grid: str, classes: int, side_px: int, size: int, device: str) -> SegmentedUnit:
    """One block of `size` by `size` pixels."""
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
    began = time.process_time()
    unit_file(unit)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", type=int, default=4096, help="edge of the block in pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    tile = segmented("UTM", 19, 32, MASK_TILE_PX, given.device)
    report: dict[str, object] = {"size": given.size, "start_s": round(seconds(tile), 2)}
    for grid in GRIDS:
        for classes, side_px in CASES:
            unit = segmented(grid, classes, side_px, given.size, given.device)
            unit_file(unit)
            took = sorted(seconds(unit) / given.size**2 * 1e9 for _ in range(given.rounds))
            middle, most = took[len(took) // 2], took[-1]
            report[f"{grid}, {classes} classes, {side_px} px"] = round(middle, 1), round(most, 1)
    document = json.dumps(report)
    if given.results:
        given.results.write_text(document + "\n")
    print(document)


if __name__ == "__main__":
    main()

"""How fast do the logits of overlapping windows become class ids: our blend, and slice-add?

    python -m bench.speed.blend [--size 2048] [--classes 5 150] [--rounds 7] [--results PATH]

Three sides: our blend in torch's operations (plain), our compiled blend, and slice-add, which
upsamples every window's logits, adds them to a canvas, divides by the count and takes the argmax,
as is common. It gives no confidences; ours do. The logits are random, of windows of 512 px at
stride 384. One thread; the sides take turns. Time is CPU time in ms per megapixel; memory is the
peak of a separate process, beyond the logits. Exit code 1: the ids or confidences of the compiled
blend differ from those of the plain one. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.engine.blend import MakeBlend
from pipeline.engine.blend_plain import PlainBlend
from pipeline.engine.stitcher import Stitcher, blend_on
from pipeline.grid import WindowGrid
from pipeline.scene import Rect
from pipeline.unit import Stitched

WINDOW_PX, STRIDE_PX, LOW = 512, 384, 128
SIDES = ("plain", "compiled", "slice-add")
Logits = dict[tuple[int, int], torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=2048, help="edge of the region in pixels")
    parser.add_argument("--classes", type=int, nargs="+", default=[5, 150])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    blend_on("cpu", 5)
    start_s = round(time.process_time() - started, 2)
    report = {f"{k} classes": compared(options.size, k, options.rounds) for k in options.classes}
    torch_version = torch.__version__
    document = json.dumps(
        {"size": options.size, "torch": torch_version, "start_s": start_s, **report}
    )
    if options.results:
        options.results.write_text(document + "\n")
    print(document)
    sys.exit(0 if all(case["compiled"]["equals_plain"] for case in report.values()) else 1)


def compared(size: int, classes: int, rounds: int) -> dict[str, Any]:
    grid, logits = windows(size, classes)
    sides = {name: side(name, size, classes) for name in SIDES}
    results = {name: blend(grid, logits) for name, blend in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, blend in sides.items():
            started = time.process_time()
            blend(grid, logits)
            seconds[name].append(time.process_time() - started)
            print(classes, number, name, f"{seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
    plain = results["plain"]
    return {
        name: {
            "ms_per_mpx": spread([1e3 * s / (size**2 / 1e6) for s in seconds[name]]),
            "peak_mb": round(peak_bytes(name, size, classes) / 1e6, 1),
            "pixels_unlike_plain": int((result.class_ids_HW != plain.class_ids_HW).sum()),
            **({} if name == "slice-add" else {"equals_plain": equal(result, plain)}),
        }
        for name, result in results.items()
    }


def windows(size: int, classes: int) -> tuple[WindowGrid, Logits]:
    grid = WindowGrid.of(size, size, WINDOW_PX, STRIDE_PX)
    generator = torch.Generator().manual_seed(0)
    places = [(row, col) for row in range(grid.rows.count) for col in range(grid.cols.count)]
    return grid, {p: torch.randn(classes, LOW, LOW, generator=generator) for p in places}


def side(name: str, size: int, classes: int) -> Callable[[WindowGrid, Logits], Stitched]:
    if name == "slice-add":
        return lambda grid, logits: slice_add(size, grid, logits)
    make = PlainBlend if name == "plain" else blend_on("cpu", classes)
    return lambda grid, logits: stitched(size, make, grid, logits)


def stitched(size: int, make: MakeBlend, grid: WindowGrid, logits: Logits) -> Stitched:
    valid_HW = np.ones((size, size), bool)
    stitcher = Stitcher(grid, Rect(0, 0, size, size), valid_HW, len(logits[0, 0]), make)
    for place, logits_Khw in logits.items():
        stitcher.add(*place, logits_Khw)
    return stitcher.close()


def slice_add(size: int, grid: WindowGrid, logits: Logits) -> Stitched:
    total = torch.zeros(len(logits[0, 0]), size, size)
    count = torch.zeros(size, size)
    for (row, col), low in logits.items():
        y, x = grid.rows.origin(row), grid.cols.origin(col)
        window = np.s_[y : y + WINDOW_PX, x : x + WINDOW_PX]
        shape = (WINDOW_PX, WINDOW_PX)
        total[:, *window] += F.interpolate(low[None], shape, mode="bilinear", align_corners=False)[
            0
        ]
        count[window] += 1
    ids_HW = total.div_(count).argmax(dim=0).numpy().astype(np.uint8)
    return Stitched(ids_HW, np.zeros(0), np.zeros(0))


def equal(one: Stitched, other: Stitched) -> bool:
    return (
        np.array_equal(one.class_ids_HW, other.class_ids_HW)
        and np.array_equal(one.confidence_TK, other.confidence_TK)
        and np.array_equal(one.samples_TK, other.samples_TK)
    )


def spread(values: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    named = {"median": statistics.median(values), "quartile_1": low, "quartile_3": high}
    return {name: round(value, 2) for name, value in named.items()}


def peak_bytes(name: str, size: int, classes: int) -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(growth_bytes, (name, size, classes))


def growth_bytes(name: str, size: int, classes: int) -> int:
    """The growth of this process's resident memory at its peak. Linux only."""
    torch.set_num_threads(1)
    blend = side(name, size, classes)
    side(name, WINDOW_PX, 2)(*windows(WINDOW_PX, 2))
    grid, logits = windows(size, classes)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = peak_of_this_process()
    blend(grid, logits)
    return peak_of_this_process() - before


def peak_of_this_process() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()

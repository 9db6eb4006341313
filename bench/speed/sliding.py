"""How fast is a picture segmented by sliding windows: ours, and transformers under the usual loops?

    python -m bench.speed.sliding [--size 4096] [--classes 5] [--network b0]
                                  [--sides ours MONAI ...] [--batch 1]
                                  [--dtype float32] [--rounds 3] [--threads 2] [--results PATH]

The weights are random and the same for all sides. Every turn is a separate process, with the same
threads and allocator settings: it loads, notes its memory, segments one window to warm up and then
the picture. Peak memory is what it held beyond the loaded model, on a GPU what the device held.
Ratios are of medians over rounds in which the sides take turns; low and high bound their 95 %
interval. Exit code 1: in float32, more than 1 pixel in 100,000 differs from ours. The last line is
one JSON document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.speed.blend import peak_of_this_process
from bench.support.contestants import contestant
from bench.support.rounds import Duration, finish, in_turns, machine, spread, timed, times_faster
from pipeline.engine.forward import tune_malloc
from pipeline.settings import DTYPES, Settings
from segformer import mit_config
from tests.support.checkpoints import random_checkpoint, save_checkpoint

SIDES = ("ours", "mmseg-style", "slice-add", "MONAI")
DIFFERENT = 1e-5


@dataclass(frozen=True)
class Case:
    folder: str
    size: int
    settings: Settings
    device: str
    threads: int


@dataclass(frozen=True)
class Turn:
    duration: Duration
    peak_bytes: int
    ids_HW: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=4096, help="edge of the picture in pixels")
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--network", default="b0")
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = Settings(batch=options.batch, dtype=options.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_checkpoint(
            random_checkpoint(mit_config(options.network, options.classes), seed=2), Path(scratch)
        )
        case = Case(folder, options.size, settings, device, options.threads)
        report = compared(case, options.sides, options.rounds)
    what = (
        f"{options.network}, {options.classes} classes, {options.size} px, 512/384, {options.dtype}"
    )
    report = {**machine(device, options.threads), "case": what, "batch": options.batch, **report}
    document = json.dumps(report)
    if options.results:
        options.results.write_text(document + "\n")
    print(document)
    equal = max(report["share_of_pixels_unlike_ours"].values()) <= DIFFERENT
    sys.exit(0 if equal or options.dtype != "float32" else 1)


def compared(case: Case, sides: list[str], rounds: int) -> dict[str, Any]:
    turns: dict[str, list[Turn]] = {name: [] for name in sides}

    def turn(name: str) -> Duration:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            turns[name].append(pool.apply(segmented, (name, case)))
        return turns[name][-1].duration

    durations = in_turns({name: lambda name=name: turn(name) for name in sides}, rounds)  # type: ignore[misc]
    cpu_s = {name: [t.cpu_s for t in taken] for name, taken in durations.items()}
    wall_s = {name: [t.wall_s for t in taken] for name, taken in durations.items()}
    peaks = {name: [t.peak_bytes for t in taken] for name, taken in turns.items()}
    others = [name for name in sides if name != "ours"]
    ids_HW = turns["ours"][0].ids_HW
    return {
        "rounds": rounds,
        "cpu_s": {name: spread(values) for name, values in cpu_s.items()},
        "wall_s": {name: spread(values) for name, values in wall_s.items()},
        "peak_mb": {name: round(statistics.median(p) / 1e6) for name, p in peaks.items()},
        "times_less_cpu": {name: times_faster(cpu_s[name], cpu_s["ours"]) for name in others},
        "times_faster": {name: times_faster(wall_s[name], wall_s["ours"]) for name in others},
        "times_less_memory": {
            name: round(statistics.median(peaks[name]) / statistics.median(peaks["ours"]), 2)
            for name in others
        },
        "share_of_pixels_unlike_ours": {
            name: float((turns[name][0].ids_HW != ids_HW).mean()) for name in others
        },
        "classes_seen": len(np.unique(ids_HW)),
    }


@torch.inference_mode()
def segmented(name: str, case: Case) -> Turn:
    """One turn, which has this process to itself."""
    tune_malloc()
    segment = contestant(name, case.folder, case.settings, case.device)
    torch.set_num_threads(case.threads)
    pixels_CHW = picture(case.size)
    before = peak_bytes(case.device, begin=True)
    segment(pixels_CHW[:, : case.settings.window, : case.settings.window])
    finish()
    results: list[np.ndarray] = []
    duration = timed(lambda: results.append(segment(pixels_CHW)))
    return Turn(duration, peak_bytes(case.device) - before, results[0])


def peak_bytes(device: str, begin: bool = False) -> int:
    """Peak bytes of the process or the device so far. begin: reset the peak first."""
    if device == "cuda":
        if begin:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_of_this_process()


def picture(size: int) -> np.ndarray:
    """A picture, uint8_CHW: smooth shapes of many colors, and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    shapes = [
        100 + 80 * np.sin(x / a + 3) * np.cos(y / b) for a, b in ((61, 97), (130, 83), (47, 211))
    ]
    noise = rng.integers(0, 24, (3, size, size), np.uint8)
    return np.stack(shapes).astype(np.uint8) + noise


if __name__ == "__main__":
    main()

"""A picture through sliding windows: ours beside transformers under other people's loops.

    python -m bench.speed.sliding [--size 4096] [--classes 5] [--network b0]
                                  [--sides ours MONAI ...] [--batch 1]
                                  [--dtype float32] [--rounds 3] [--threads 2] [--results PATH]

The weights are random, and everybody's the same. Every turn is a process of its own, with the same
threads and allocator settings for all: it loads, notes its memory, takes one window to warm up and
then the picture; peak memory is what it held beyond the loaded model, on a GPU what the device
held. Ratios are of medians over rounds in which the sides take turns; low and high bound their
95 % interval. Exit code 1: more than 1 pixel in 100,000 differs from ours in float32. The last line
is one JSON document.
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
from bench.support.rounds import Took, finish, in_turns, machine, spread, timed, times_faster
from pipeline.engine.forward import tune_malloc
from pipeline.settings import DTYPES, Settings
from segformer import mit_config
from tests.support.checkpoints import random_checkpoint, saved

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
    took: Took
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
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = Settings(batch=given.batch, dtype=given.dtype)
    with tempfile.TemporaryDirectory() as scratch:
        folder = saved(
            random_checkpoint(mit_config(given.network, given.classes), seed=2), Path(scratch)
        )
        case = Case(folder, given.size, settings, device, given.threads)
        report = compared(case, given.sides, given.rounds)
    what = f"{given.network}, {given.classes} classes, {given.size} px, 512/384, {given.dtype}"
    report = {**machine(device, given.threads), "case": what, "batch": given.batch, **report}
    document = json.dumps(report)
    if given.results:
        given.results.write_text(document + "\n")
    print(document)
    equal = max(report["share_of_pixels_unlike_ours"].values()) <= DIFFERENT
    sys.exit(0 if equal or given.dtype != "float32" else 1)


def compared(case: Case, sides: list[str], rounds: int) -> dict[str, Any]:
    turns: dict[str, list[Turn]] = {name: [] for name in sides}

    def turn(name: str) -> Took:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            turns[name].append(pool.apply(segmented, (name, case)))
        return turns[name][-1].took

    took = in_turns({name: lambda name=name: turn(name) for name in sides}, rounds)  # type: ignore[misc]
    cpu_s = {name: [t.cpu_s for t in taken] for name, taken in took.items()}
    wall_s = {name: [t.wall_s for t in taken] for name, taken in took.items()}
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
    """One turn, in a process of its own."""
    tune_malloc()
    segment = contestant(name, case.folder, case.settings, case.device)
    torch.set_num_threads(case.threads)
    pixels_CHW = picture(case.size)
    before = held(case.device, begin=True)
    segment(pixels_CHW[:, : case.settings.window, : case.settings.window])
    finish()
    results: list[np.ndarray] = []
    took = timed(lambda: results.append(segment(pixels_CHW)))
    return Turn(took, held(case.device) - before, results[0])


def held(device: str, begin: bool = False) -> int:
    """The most bytes so far, or since the beginning."""
    if device == "cuda":
        if begin:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    if begin:
        Path("/proc/self/clear_refs").write_text("5")
    return peak_of_this_process()


def picture(size: int) -> np.ndarray:
    """uint8_CHW: smooth shapes of many colours, and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    shapes = [
        100 + 80 * np.sin(x / a + 3) * np.cos(y / b) for a, b in ((61, 97), (130, 83), (47, 211))
    ]
    noise = rng.integers(0, 24, (3, size, size), np.uint8)
    return np.stack(shapes).astype(np.uint8) + noise


if __name__ == "__main__":
    main()

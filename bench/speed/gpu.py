"""How fast are sliding windows on a GPU: ours, and transformers under slice-add?

    python -m bench.speed.gpu [--networks b0 b2 b5] [--classes 5] [--size 8192] [--dtype float16]
                        [--batch 32] [--rounds 5] [--compiled b0 b2] [--results PATH]

From pixels in the host's memory to class ids there, windows of 512 px at stride 384, blended. The
weights are random and the same for all sides; transformers runs eager and, for the networks of
--compiled, also through torch.compile. One process: a whole picture each to warm up, then the sides
take turns. The report has medians of windows per second, and ratios whose low and high bound their
95 % interval. Peak memory is what torch held on the device beyond the loaded networks. The last
line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.speed.sliding import picture
from bench.support.contestants import Segment, contestant
from bench.support.rounds import in_turns, machine, spread, timed, times_faster
from pipeline.grid import WindowGrid
from pipeline.settings import DTYPES, Settings
from segformer import mit_config
from tests.support.checkpoints import random_checkpoint, save_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["b0", "b2", "b5"])
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--size", type=int, default=8192, help="edge of the picture in pixels")
    parser.add_argument("--dtype", default="float16", choices=DTYPES)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--compiled",
        nargs="*",
        default=["b0", "b2"],
        help="networks to compile, too: a minute each",
    )
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("needs a CUDA device; bench/speed/sliding.py runs on CPUs")
    pixels_CHW = picture(options.size)
    report: dict[str, Any] = {
        **machine("cuda", 1),
        "case": f"{options.classes} classes, {options.size} px, 512/384, {options.dtype}",
        "batch": options.batch,
        "rounds": options.rounds,
    }
    for network in options.networks:
        report[network] = compared(network, options, pixels_CHW)
        print(network, json.dumps(report[network]), file=sys.stderr, flush=True)
        if options.results:
            options.results.write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


@torch.inference_mode()
def compared(network: str, options: argparse.Namespace, pixels_CHW: np.ndarray) -> dict[str, Any]:
    settings = Settings(batch=options.batch, dtype=options.dtype)
    sides = ["ours", "slice-add", *["slice-add, compiled"] * (network in options.compiled)]
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = random_checkpoint(mit_config(network, options.classes), seed=2)
        folder = save_checkpoint(checkpoint, Path(scratch))
        segments = {name: contestant(name, folder, settings, "cuda") for name in sides}
        in_float32 = Settings(batch=options.batch)
        segments["ours, float32"] = contestant("ours", folder, in_float32, "cuda")
    ids_HW, peaks = {}, {}
    for name, segment in segments.items():
        ids_HW[name], peaks[name] = segment_warm(segment, pixels_CHW)
    durations = in_turns(
        {n: lambda s=s: timed(lambda: s(pixels_CHW)) for n, s in segments.items()},  # type: ignore[misc]
        options.rounds,
    )
    grid = WindowGrid.of(options.size, options.size, settings.window, settings.stride)
    windows = grid.rows.count * grid.cols.count
    wall_s = {name: [t.wall_s for t in turns] for name, turns in durations.items()}
    rates = {name: [windows / s for s in seconds] for name, seconds in wall_s.items()}
    return {
        "windows_per_s": {name: spread(values) for name, values in rates.items()},
        "times_faster": {n: times_faster(wall_s[n], wall_s["ours"]) for n in sides[1:]},
        "peak_mb": {name: round(bytes_ / 1e6) for name, bytes_ in peaks.items()},
        "share_of_pixels_unlike_ours_in_float32": {
            name: float((ids != ids_HW["ours, float32"]).mean()) for name, ids in ids_HW.items()
        },
        "classes_seen": len(np.unique(ids_HW["ours, float32"])),
    }


def segment_warm(segment: Segment, pixels_CHW: np.ndarray) -> tuple[np.ndarray, int]:
    """Class ids, and peak bytes on the device, of the second picture: the first one compiles."""
    segment(pixels_CHW)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ids_HW = segment(pixels_CHW)
    return ids_HW, torch.cuda.max_memory_allocated() - before


if __name__ == "__main__":
    main()

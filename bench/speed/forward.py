"""How fast is a forward pass per image: our network against transformers and runtimes for CPUs?

    python -m bench.speed.forward [--size b0 | --example] [--classes 150] [--edge 512] [--rounds 11]
                                  [--threads 1] [--dtypes float32 bfloat16] [--contestants ours ...]
                                  [--beside TEXT] [--results PATH]

Contestants: ours; transformers with its eager attention and with SDPA, its default; `compiled`, the
latter through torch.compile, which takes minutes to compile and has to be asked for; OpenVINO, also
in int8 by NNCF; ONNX Runtime. The weights are random and the same for all, or the example's, with
its picture. All have the same pixels, threads and allocator settings (ours). First each finds its
best batch of 1, 2, 4 and 8. Then they take turns at these; a turn is one or more passes after a
pause in which the threads of the side before fall asleep. With one thread, which is what a replica
has, CPU time counts, so that other work on the machine does not; with more, and on a GPU, wall
time. Ratios are of medians; low and high bound their 95 % interval. Runs on a GPU if there is one,
without the runtimes. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.speed.sliding import picture
from bench.support.networks import (
    BATCHES,
    CALIBRATION_IMAGES,
    CONTESTANTS,
    CPU_ONLY,
    Make,
    Run,
    Task,
)
from bench.support.rounds import Duration, in_turns, machine, spread, timed, times_faster
from examples.bluemarble import bluemarble
from pipeline.engine.forward import TORCH_DTYPES, tune_malloc
from segformer import load_model, mit_config
from tests.support.checkpoints import random_checkpoint, save_checkpoint

EXAMPLE = Path(bluemarble.__file__).parent / "checkpoint"
TURN_IMAGES = 4
"""Images per turn, or one batch if that is more."""
PAUSE_S = 0.05
"""Longer than the threads of any side spin after their last pass."""
SEARCH_TURNS = 3
"""Turns of each batch when the best one is sought."""
OURS = "ours, "


def main() -> None:
    options = parsed()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = [name for name in options.contestants if device == "cpu" or name not in CPU_ONLY]
    torch.set_num_threads(options.threads)
    tune_malloc()
    load = [round(os.getloadavg()[0], 1)]
    with torch.inference_mode(), tempfile.TemporaryDirectory() as scratch:
        task = task_of(options, device, Path(scratch))
        makers = {k: make for name in chosen for k, make in CONTESTANTS[name](task).items()}
        clock = "CPU" if device == "cpu" and options.threads == 1 else "wall"
        report = compared(makers, task.images_NCHW.to(device), options.rounds, clock)
    load.append(round(os.getloadavg()[0], 1))
    network = "the example's" if options.example else f"{options.size}, {options.classes} classes"
    head = {
        **machine(device, options.threads),
        "runtimes": versions(chosen),
        "beside": options.beside,
        "load_before_and_after": load,
        "network": f"{network}, {options.edge} px",
        "rounds": options.rounds,
        "clock": clock,
    }
    document = json.dumps({**head, **report})
    if options.results:
        options.results.write_text(document + "\n")
    print(document)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--size", default="b0", choices=["b0", "b1", "b2", "b3", "b4", "b5"])
    network.add_argument(
        "--example", action="store_true", help="the example's trained network, on its picture"
    )
    parser.add_argument("--classes", type=int, default=150, help="of random weights")
    parser.add_argument("--edge", type=int, default=512, help="edge of the images in pixels")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "bfloat16"], choices=TORCH_DTYPES
    )
    everybody = [name for name in CONTESTANTS if name != "compiled"]
    parser.add_argument("--contestants", nargs="+", default=everybody, choices=CONTESTANTS)
    parser.add_argument("--beside", default="nothing", help="what else runs on the machine")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    if "ours" not in options.contestants or "float32" not in options.dtypes:
        parser.error("the others are compared with ours in float32: name both")
    return options


def task_of(options: argparse.Namespace, device: str, scratch: Path) -> Task:
    """The network and the images, which are windows of one picture."""
    if options.example:
        folder, picture_CHW = str(EXAMPLE), bluemarble.read_picture().transpose(2, 0, 1)
    else:
        checkpoint = random_checkpoint(mit_config(options.size, options.classes), seed=2)
        folder, picture_CHW = save_checkpoint(checkpoint, scratch), picture(7 * options.edge)
    edge, count = options.edge, max(BATCHES) + CALIBRATION_IMAGES
    rows, cols = (size // edge for size in picture_CHW.shape[1:])
    places = np.random.default_rng(0).permutation(rows * cols)[:count]
    origins = [(n // cols * edge, n % cols * edge) for n in places]
    pixels_NCHW = np.stack([picture_CHW[:, y : y + edge, x : x + edge] for y, x in origins])
    norm = load_model(folder).normalisation
    mean, std = torch.tensor([norm.mean, norm.std])[:, :, None, None]
    images_NCHW = (torch.from_numpy(pixels_NCHW).float() * norm.rescale - mean) / std
    return Task(
        folder=folder,
        images_NCHW=images_NCHW[: max(BATCHES)],
        calibration_NCHW=images_NCHW[max(BATCHES) :],
        dtypes=tuple(options.dtypes),
        threads=options.threads,
        device=device,
        scratch=scratch,
    )


def compared(
    makers: Mapping[str, Make], pixels_NCHW: torch.Tensor, rounds: int, clock: str
) -> dict[str, Any]:
    """What each contestant took by the clock, `CPU` or `wall`, and how its logits and classes
    differ from those of the first one, ours in float32."""
    reference = list(map(torch.clone, map(next(iter(makers.values()))(1), pixels_NCHW.split(1))))
    searches, differences = {}, {}
    for name, make in makers.items():
        searches[name] = {
            batch: search(make(batch), batch, pixels_NCHW, clock) for batch in BATCHES
        }
        differences[name] = difference(make(1), pixels_NCHW, reference)
        print(f"{name}: seconds per image by batch: {searches[name]}", file=sys.stderr, flush=True)
    best = {name: min(BATCHES, key=found.__getitem__) for name, found in searches.items()}
    sides = {name: (name, batch) for name, batch in best.items()}
    sides |= {f"{name}, batch 1": (name, 1) for name in makers if name.startswith(OURS)}
    turns = {side: turn(makers[name](b), b, pixels_NCHW) for side, (name, b) in sides.items()}
    for run_once in turns.values():
        run_once()
    durations = in_turns(turns, rounds)
    seconds = {
        side: [per_image(duration, sides[side][1], clock) for duration in taken]
        for side, taken in durations.items()
    }
    own = [name.removeprefix(OURS) for name in makers if name.startswith(OURS)]
    return {
        "contestants": {
            name: {
                "search_s_per_image": searches[name],
                "best_batch": best[name],
                "s_per_image": spread(seconds[name]),
                "times_slower_than_ours": {
                    dtype: {
                        "at_best_batch": times_faster(seconds[name], seconds[OURS + dtype]),
                        "at_batch_1": times_faster(
                            seconds[name], seconds[f"{OURS}{dtype}, batch 1"]
                        ),
                    }
                    for dtype in own
                },
                **differences[name],
            }
            for name in makers
        }
    }


def search(run: Run, batch: int, pixels_NCHW: torch.Tensor, clock: str) -> float:
    """The median of the seconds per image of some turns, after one to warm up."""
    run_once = turn(run, batch, pixels_NCHW)
    run_once()
    taken = [per_image(run_once(), batch, clock) for _ in range(SEARCH_TURNS)]
    return spread(taken)["median"]


def per_image(duration: Duration, batch: int, clock: str) -> float:
    seconds = duration.cpu_s if clock == "CPU" else duration.wall_s
    return seconds / images_per_turn(batch)


def difference(
    run: Run, pixels_NCHW: torch.Tensor, reference: list[torch.Tensor]
) -> dict[str, float]:
    """The logits and, once these are upsampled, the classes beside the logits_1Khw of reference."""
    size, largest, same = pixels_NCHW.shape[2:], 0.0, 0.0
    for image_1CHW, reference_1Khw in zip(pixels_NCHW.split(1), reference, strict=True):
        logits_1Khw = run(image_1CHW).float()
        largest = max(largest, float((logits_1Khw - reference_1Khw).abs().max()))
        ids = [
            F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(dim=1)
            for logits in (logits_1Khw, reference_1Khw)
        ]
        same += float((ids[0] == ids[1]).float().mean())
    return {
        "largest_difference_of_logits": largest,
        "share_of_pixels_like_ours_float32": same / len(reference),
    }


def images_per_turn(batch: int) -> int:
    return max(TURN_IMAGES, batch)


def turn(run: Run, batch: int, pixels_NCHW: torch.Tensor) -> Callable[[], Duration]:
    batch_NCHW, passes = pixels_NCHW[:batch], images_per_turn(batch) // batch

    def passes_in_a_row() -> None:
        for _ in range(passes):
            run(batch_NCHW)

    def run_once() -> Duration:
        time.sleep(PAUSE_S)
        return timed(passes_in_a_row)

    return run_once


def versions(chosen: list[str]) -> dict[str, str]:
    packages = {"openvino": ("openvino", "nncf"), "onnxruntime": ("onnxruntime", "onnx")}
    return {p: version(p) for name in chosen for p in packages.get(name, ())}


if __name__ == "__main__":
    main()

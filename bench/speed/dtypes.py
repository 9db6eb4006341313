"""What does --dtype gain, and what does it change: bfloat16 and float16 against float32?

    python -m bench.speed.dtypes [--sizes b0 b2] [--rounds 11] [--threads 2] [--results PATH]

All sides are our network. Speed: a forward pass of one window of 512 px, 150 classes; the sides
take turns. Ratios are of median wall times; low and high bound their 95 % interval. Agreement: the
share of pixels that get float32's class in the whole sliding window, with the example's network on
its picture, and with random weights on random shapes, whose logits are closer to each other than a
trained network's. Runs on a GPU if there is one. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.speed.sliding import picture
from bench.support.contestants import ours
from bench.support.rounds import in_turns, machine, spread, timed, times_faster
from examples.bluemarble import bluemarble
from pipeline.engine.forward import TORCH_DTYPES, tune_malloc
from pipeline.settings import DTYPES, Settings
from segformer import SegFormer, mit_config
from tests.support.checkpoints import random_checkpoint, save_checkpoint

EXAMPLE = Path(bluemarble.__file__).parent / "checkpoint"
PICTURE_PX = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["b0", "b2"])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tune_malloc()
    with torch.inference_mode():
        torch.set_num_threads(options.threads)
        speed = {size: forward(size, options.rounds, device) for size in options.sizes}
        same = agreement(device)
    document = json.dumps(
        {**machine(device, options.threads), "speed": speed, "share_of_pixels_like_float32": same}
    )
    if options.results:
        options.results.write_text(document + "\n")
    print(document)


def forward(size: str, rounds: int, device: str) -> dict[str, Any]:
    checkpoint = random_checkpoint(mit_config(size, 150), seed=2)
    x_NCHW = torch.randn(1, 3, 512, 512)
    models = {d: SegFormer(checkpoint).to(device, TORCH_DTYPES[d]) for d in DTYPES}
    inputs = {d: x_NCHW.to(device, TORCH_DTYPES[d]) for d in DTYPES}
    for name, model in models.items():
        model(inputs[name])
    durations = in_turns(
        {d: lambda d=d: timed(lambda: models[d](inputs[d])) for d in DTYPES},  # type: ignore[misc]
        rounds,
    )
    wall_s = {name: [t.wall_s for t in turns] for name, turns in durations.items()}
    return {
        "wall_s": {name: spread(values) for name, values in wall_s.items()},
        "times_faster_than_float32": {
            d: times_faster(wall_s["float32"], wall_s[d]) for d in DTYPES if d != "float32"
        },
    }


def agreement(device: str) -> dict[str, dict[str, float]]:
    """The share of equal pixels by case and dtype: the example's network, and two random ones."""
    blue_CHW = np.ascontiguousarray(bluemarble.read_picture().transpose(2, 0, 1))
    shares = {"example, the whole picture": alike(str(EXAMPLE), blue_CHW, device)}
    for classes in (5, 150):
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(random_checkpoint(mit_config("b0", classes), seed=2), Path(folder))
            case = f"b0, random weights, {classes} classes"
            shares[case] = alike(folder, picture(PICTURE_PX), device)
    return shares


def alike(folder: str, pixels_CHW: np.ndarray, device: str) -> dict[str, float]:
    ids = {d: ours(folder, Settings(dtype=d, batch=1), device)(pixels_CHW) for d in DTYPES}
    return {d: float((ids[d] == ids["float32"]).mean()) for d in DTYPES if d != "float32"}


if __name__ == "__main__":
    main()

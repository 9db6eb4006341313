"""One forward pass per image: ours beside transformers', the same weights and pixels.

    python -m bench.speed.forward [--size b0] [--classes 150] [--edge 512] [--rounds 11]
                                  [--threads 2] [--dtype float32] [--compiled] [--results PATH]

transformers runs with its eager attention and with SDPA, its default, the latter at batches of 1 to
8; with --compiled also through torch.compile. Its best is the least median per image. Everybody has
the same threads and the same allocator settings, ours. The sides take turns; one pass each before.
Ratios are of median wall times; low and high bound their 95 % interval. Runs on a GPU where there
is one. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.support.rounds import Took, in_turns, machine, spread, timed, times_faster
from pipeline.engine.forward import TORCH_DTYPES, tune_malloc
from segformer import load_model, mit_config
from tests.support.checkpoints import random_checkpoint, saved

BATCHES = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="b0", choices=["b0", "b1", "b2", "b3", "b4", "b5"])
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--edge", type=int, default=512, help="of the images, in pixels")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=TORCH_DTYPES)
    parser.add_argument("--compiled", action="store_true", help="transformers by torch.compile too")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tune_malloc()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        report = compared(given, device)
    document = json.dumps({**machine(device, given.threads), **report})
    if given.results:
        given.results.write_text(document + "\n")
    print(document)


def compared(given: argparse.Namespace, device: str) -> dict[str, Any]:
    sides = networks(given, device)
    pixels_NCHW = torch.randn(max(BATCHES), 3, given.edge, given.edge).to(
        device, TORCH_DTYPES[given.dtype]
    )
    logits = {name: model(pixels_NCHW[:1]).float() for name, (model, _) in sides.items()}
    turns = {name: turn(*side, pixels_NCHW) for name, side in sides.items()}
    for once in turns.values():
        once()
    took = in_turns(turns, given.rounds)
    per_image = {name: [t.wall_s / sides[name][1] for t in turn] for name, turn in took.items()}
    median = {name: spread(values)["median"] for name, values in per_image.items()}
    best = {
        who: min((name for name in sides if name.startswith(who)), key=lambda name: median[name])
        for who in ("ours", "transformers")
    }
    return {
        "network": f"{given.size}, {given.classes} classes, {given.edge} px, {given.dtype}",
        "rounds": given.rounds,
        "largest_difference_of_logits": {
            name: float((each - logits["ours, batch 1"]).abs().max())
            for name, each in logits.items()
        },
        "wall_s_per_image": {name: spread(values) for name, values in per_image.items()},
        "times_faster_at_batch_1_than_eager": times_faster(
            per_image["transformers eager, batch 1"], per_image["ours, batch 1"]
        ),
        "best": best,
        "times_faster_best_against_best": times_faster(
            per_image[best["transformers"]], per_image[best["ours"]]
        ),
        "times_faster_at_batch_1_than_best": times_faster(
            per_image[best["transformers"]], per_image["ours, batch 1"]
        ),
    }


def networks(
    given: argparse.Namespace, device: str
) -> dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]]:
    """By name: pixels to logits, and a batch."""
    from transformers import SegformerForSemanticSegmentation  # noqa: PLC0415  takes seconds

    dtype = TORCH_DTYPES[given.dtype]
    checkpoint = random_checkpoint(mit_config(given.size, given.classes), seed=2)
    with tempfile.TemporaryDirectory() as folder:
        saved(checkpoint, Path(folder))
        ours = load_model(folder).to(device, dtype)
        theirs = {
            kind: SegformerForSemanticSegmentation.from_pretrained(folder, attn_implementation=kind)
            .eval()
            .to(device, dtype)
            for kind in ("eager", "sdpa")
        }
    compiled = torch.compile(theirs["sdpa"]) if given.compiled else None
    sides: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
        "transformers eager, batch 1": (lambda x: theirs["eager"](x).logits, 1)
    }
    for batch in BATCHES:
        sides[f"ours, batch {batch}"] = (ours, batch)
        sides[f"transformers SDPA, batch {batch}"] = (lambda x: theirs["sdpa"](x).logits, batch)
        if compiled is not None:
            sides[f"transformers compiled, batch {batch}"] = (lambda x: compiled(x).logits, batch)
    return sides


def turn(
    model: Callable[[torch.Tensor], torch.Tensor], batch: int, pixels_NCHW: torch.Tensor
) -> Callable[[], Took]:
    return lambda: timed(lambda: model(pixels_NCHW[:batch]))


if __name__ == "__main__":
    main()

"""How fast is a forward pass per image: our network against transformers', with the same weights?

    python -m bench.speed.forward [--size b0] [--classes 150] [--edge 512] [--rounds 11]
                                  [--threads 2] [--dtype float32] [--compiled] [--results PATH]

transformers runs with its eager attention and with SDPA, its default, the latter at batches of 1 to
8; with --compiled also through torch.compile. The best of a side is its lowest median per image.
All sides have the same pixels, threads and allocator settings (ours). They take turns, after one
pass each to warm up. Ratios are of median wall times; low and high bound their 95 % interval. Runs
on a GPU if there is one. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.support.rounds import Duration, in_turns, machine, spread, timed, times_faster
from pipeline.engine.forward import TORCH_DTYPES, tune_malloc
from segformer import load_model, mit_config
from tests.support.checkpoints import random_checkpoint, save_checkpoint

BATCHES = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="b0", choices=["b0", "b1", "b2", "b3", "b4", "b5"])
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--edge", type=int, default=512, help="edge of the images in pixels")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=TORCH_DTYPES)
    parser.add_argument(
        "--compiled", action="store_true", help="also run transformers through torch.compile"
    )
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_malloc()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.inference_mode():
        report = compared(options, device)
    document = json.dumps({**machine(device, options.threads), **report})
    if options.results:
        options.results.write_text(document + "\n")
    print(document)


def compared(options: argparse.Namespace, device: str) -> dict[str, Any]:
    sides = networks(options, device)
    pixels_NCHW = torch.randn(max(BATCHES), 3, options.edge, options.edge).to(
        device, TORCH_DTYPES[options.dtype]
    )
    logits = {name: model(pixels_NCHW[:1]).float() for name, (model, _) in sides.items()}
    turns = {name: turn(*side, pixels_NCHW) for name, side in sides.items()}
    for run_once in turns.values():
        run_once()
    durations = in_turns(turns, options.rounds)
    per_image = {
        name: [t.wall_s / sides[name][1] for t in turn] for name, turn in durations.items()
    }
    median = {name: spread(values)["median"] for name, values in per_image.items()}
    best = {
        side: min((name for name in sides if name.startswith(side)), key=lambda name: median[name])
        for side in ("ours", "transformers")
    }
    return {
        "network": f"{options.size}, {options.classes} classes, {options.edge} px, {options.dtype}",
        "rounds": options.rounds,
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
    options: argparse.Namespace, device: str
) -> dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]]:
    """The sides by name: a function from pixels to logits, and its batch."""
    from transformers import SegformerForSemanticSegmentation  # noqa: PLC0415  takes seconds

    dtype = TORCH_DTYPES[options.dtype]
    checkpoint = random_checkpoint(mit_config(options.size, options.classes), seed=2)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(checkpoint, Path(folder))
        ours = load_model(folder).to(device, dtype)
        theirs = {
            kind: SegformerForSemanticSegmentation.from_pretrained(folder, attn_implementation=kind)
            .eval()
            .to(device, dtype)
            for kind in ("eager", "sdpa")
        }
    compiled = torch.compile(theirs["sdpa"]) if options.compiled else None
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
) -> Callable[[], Duration]:
    return lambda: timed(lambda: model(pixels_NCHW[:batch]))


if __name__ == "__main__":
    main()

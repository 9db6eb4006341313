"""Does a Segformer of segmentation_models_pytorch get the logits and masks of smp itself?

    pip install --no-deps segmentation_models_pytorch timm torchvision
    python -m bench.promises.smp_parity

MiT-B0, B2 and B5 with random weights whose logits have the deviation 1. Logits: 512 x 512,
544 x 384 and 96 x 96 px, 1, 3 and 13 channels, 1, 2 and 19 classes, at full resolution against
smp's own in float64: at most 2e-5 apart, and the same class wherever the best two are further
apart. Masks: a whole run against the plain loop over smp's full outputs, added up and divided by
their count: at most 1 pixel in 100,000 differs. The last line is one JSON document. Exit code 0:
all of it holds.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.support.rounds import machine
from pipeline.api import run
from pipeline.settings import Execution, Settings
from segformer import Checkpoint, NormEps, load_model, mit_config
from tests.support.archives import mask_of, picture, write_scene
from tests.support.foreign_checkpoints import random_checkpoint, smp
from tests.support.smp_reference import class_ids, mean_logits, of_every_pixel

NETWORKS = ("b0", "b2", "b5")
SHAPES = ((512, 512), (544, 384), (96, 96))
CHANNELS, CLASSES = (1, 3, 13), (1, 2, 19)
MASKS = {"b0": (1400, 1100), "b2": (700, 600), "b5": (700, 600)}
"""Width and height of the scene that each network segments."""
LIMIT = 2e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--results", type=Path, help="Also write the document there.")
    options = parser.parse_args()
    started, rows, masks = time.monotonic(), [], []
    for size, channels, classes in itertools.product(options.networks, CHANNELS, CLASSES):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = checkpoint_of(size, channels, classes)
            network = library_network(size, checkpoint)
            path = save(checkpoint, Path(folder))
            rows += [logits_row(size, network, path, checkpoint, shape) for shape in SHAPES]
            if channels == 3:
                masks.append(mask_row(size, network, path, checkpoint))
    document = {
        "logits": rows,
        "masks": masks,
        "largest_error": max(row["largest_error"] for row in rows),
        "classes_that_differ": sum(row["differ"] for row in rows),
        "smp": library().__version__,
        **machine("cpu", torch.get_num_threads()),
        "seconds": round(time.monotonic() - started),
        "holds": all(row["holds"] for row in (*rows, *masks)),
    }
    text = json.dumps(document)
    if options.results:
        options.results.write_text(text + "\n")
    print(text)
    sys.exit(0 if document["holds"] else 1)


def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations in other libraries, at import
        return importlib.import_module("segmentation_models_pytorch")  # no dependency of Swath's


def checkpoint_of(size: str, channels: int, classes: int) -> Checkpoint:
    """A checkpoint whose logits, class by class, are around 0 with a deviation of 1."""
    config = mit_config(
        *(size, max(classes, 2)),
        decoder_hidden_size=256,
        num_channels=channels,
        sigmoid=classes == 1,
        norm_eps=NormEps(block=1e-6),
        align_corners=True,
    )
    checkpoint = random_checkpoint(config)
    logits_NKHW = library_network(size, checkpoint)(pixels(channels, 160, 160).double())
    centered = logits_NKHW - logits_NKHW.mean((0, 2, 3), keepdim=True)
    deviation = centered.std().float()
    weights = checkpoint.weights
    weights["head.classifier.bias"] -= logits_NKHW.mean((0, 2, 3)).float()
    weights["head.classifier.weight"] /= deviation
    weights["head.classifier.bias"] /= deviation
    return checkpoint


def pixels(channels: int, height: int, width: int) -> Tensor:
    """Smooth pictures with some noise: white noise alone hardly reaches the coarse scales."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, channels, height // 32 + 1, width // 32 + 1, generator=generator)
    noise = torch.randn(1, channels, height, width, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic") + 0.3 * noise


def library_network(size: str, checkpoint: Checkpoint) -> nn.Module:
    """smp's own network, in float64, without gradients."""
    config = checkpoint.config
    arguments = {"in_channels": config.num_channels, "classes": config.num_labels}
    network = library().Segformer(f"mit_{size}", encoder_weights=None, **arguments)
    network.load_state_dict(smp(checkpoint.weights))
    return network.double().eval().requires_grad_(False)


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    torch.save(smp(checkpoint.weights), folder / "smp.pth")
    fields = json.dumps(checkpoint.normalisation.to_json())
    (folder / "preprocessor_config.json").write_text(fields)
    return folder / "smp.pth"


def logits_row(
    size: str, network: nn.Module, path: Path, checkpoint: Checkpoint, shape: tuple[int, int]
) -> dict[str, Any]:
    """Our logits at full resolution against smp's."""
    channels, classes = checkpoint.config.num_channels, checkpoint.config.num_labels
    x_NCHW = pixels(channels, *shape)
    expected_KHW = network(x_NCHW.double())[0]
    with torch.inference_mode():
        logits_NKhw = load_model(str(path))(x_NCHW)
    ours_KHW = of_every_pixel(logits_NKhw[0], *shape)
    error = float((ours_KHW - expected_KHW).abs().max())
    differ_HW = class_ids(ours_KHW) != class_ids(expected_KHW)
    decided_HW = margin(expected_KHW).numpy() > 2 * error
    row = {
        **{"network": size, "shape": shape, "channels": channels, "classes": classes},
        **{"largest_error": error, "deviation": round(float(expected_KHW.std()), 3)},
        **{"differ": int(differ_HW.sum()), "differ_decided": int((differ_HW & decided_HW).sum())},
    }
    row["holds"] = error <= LIMIT and not row["differ_decided"]
    print(row, file=sys.stderr, flush=True)
    return row


def margin(logits_KHW: Tensor) -> Tensor:
    """By how much the best class of each pixel is ahead."""
    if len(logits_KHW) == 1:
        return logits_KHW[0].abs()
    best_HW, second_HW = logits_KHW.topk(2, dim=0).values
    return best_HW - second_HW


def mask_row(size: str, network: nn.Module, path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """The mask of a run against the plain loop."""
    width, height = MASKS[size]
    values_CHW, settings = picture(width, height), Settings()
    folder = path.parent
    write_scene(folder / "in" / "a.tif", width, height, values=values_CHW)
    execution = Execution(runner="local")
    run([str(folder / "in")], str(path), str(folder / "out"), settings, execution)
    mask = mask_of(folder / "out", "a.tif")
    norm, window, stride = checkpoint.normalisation, settings.window, settings.stride
    expected = class_ids(mean_logits(network, norm, values_CHW, window, stride))
    differ = int((mask != expected).sum())
    row = {
        **{"network": size, "classes": checkpoint.config.num_labels, "pixels": mask.size},
        **{"differ": differ, "classes_found": len(set(expected.ravel().tolist()))},
    }
    row["holds"] = differ <= mask.size / 100_000
    print(row, file=sys.stderr, flush=True)
    return row


if __name__ == "__main__":
    main()

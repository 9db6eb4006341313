"""Random smp.Segformer networks, and the files that smp and its wrappers make of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from segformer import Checkpoint, NormEps, mit_config
from tests.support.foreign_checkpoints import SMALL, random_checkpoint, smp
from tests.support.smp_reference import SmpSegformer

EPS = NormEps(block=1e-6, reduction=1e-5, embedding=1e-5)
TASK = {"model": "segformer", "backbone": "mit_b0", "in_channels": 3, "num_classes": 3}
"""The arguments of a task of torchgeo's, as Lightning keeps them."""


def network_of(classes: int = 3, channels: int = 3, **sizes: Any) -> Checkpoint:
    """A checkpoint with random weights whose classes all win somewhere."""
    names = [f"class_{k}" for k in range(max(classes, 2))]
    config = mit_config(
        *("b0", len(names), names),
        **{**SMALL, **sizes, "norm_eps": EPS, "align_corners": True},
        sigmoid=classes == 1,
        num_channels=channels,
    )
    checkpoint = random_checkpoint(config)
    x_NCHW = torch.randn(1, channels, 96, 96, generator=torch.Generator().manual_seed(5))
    logits_NKHW = SmpSegformer.of(checkpoint)(x_NCHW.double())
    checkpoint.weights["head.classifier.bias"] -= logits_NKHW.mean((0, 2, 3)).float()
    return replace(checkpoint, origin="smp")


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write the file of weights, with its normalization beside it."""
    torch.save(smp(checkpoint.weights), folder / "smp.pth")
    fields = checkpoint.normalisation.to_json()
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return folder / "smp.pth"


def hub_folder(checkpoint: Checkpoint, folder: Path, **config: Any) -> Path:
    """A folder as smp's save_pretrained writes it. config: changes of config.json."""
    fields = {
        "_model_class": "Segformer",
        "activation": None,
        "aux_params": None,
        "classes": checkpoint.config.num_labels,
        "decoder_segmentation_channels": checkpoint.config.decoder_hidden_size,
        "encoder_depth": 5,
        "encoder_name": "mit_b0",
        "encoder_weights": "imagenet",
        "in_channels": checkpoint.config.num_channels,
        "upsampling": 4,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields | config))
    weights = {name: tensor.contiguous() for name, tensor in smp(checkpoint.weights).items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    return folder

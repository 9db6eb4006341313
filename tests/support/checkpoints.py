"""Checkpoints with random weights, for tests and benchmarks that need no trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from segformer import Checkpoint, ModelConfig, Normalisation, mit_config, write_checkpoint
from segformer.checkpoints.shapes import weight_shapes

SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 16, 24, 32),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 16,
}
"""A configuration of the right shape with few channels."""


def random_checkpoint(
    config: ModelConfig, seed: int, normalisation: Normalisation | None = None
) -> Checkpoint:
    """A checkpoint whose weights preserve the signal's size and whose norms are far from 1 and 0.

    Freshly initialized weights would hide mistakes: their biases are 0 and their norms do nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        tensor = torch.zeros(shape)
        if name.endswith("num_batches_tracked"):
            tensor = tensor.long()
        elif tensor.ndim > 1:
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith("running_var") or ("norm" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 2, generator=generator)
        else:
            tensor.normal_(std=0.3, generator=generator)
        weights[name] = tensor
    normalisation = normalisation or Normalisation.default(config.num_channels)
    return Checkpoint(config, normalisation, weights, "transformers")


def save_small(folder: Path, classes: int = 4) -> str:
    """Write a SegFormer of the right shape with few channels; return the folder."""
    return save_checkpoint(random_checkpoint(mit_config("b0", classes, **SMALL), seed=1), folder)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> str:
    """Write a checkpoint in transformers' format; return the folder."""
    write_checkpoint(checkpoint, str(folder))
    return str(folder)

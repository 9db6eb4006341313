"""Checkpoints with random weights, for tests and for what runs without them."""

from __future__ import annotations

from pathlib import Path

import torch

from segformer import SegFormer, mit_config, save_model


def save_small(folder: Path, classes: int = 4) -> str:
    """A SegFormer of the right shape with few channels."""
    torch.manual_seed(1)
    model = SegFormer(
        mit_config(
            "b0",
            classes,
            depths=(1, 1, 1, 1),
            hidden_sizes=(8, 16, 24, 32),
            num_attention_heads=(1, 2, 3, 4),
            decoder_hidden_size=16,
        )
    )
    return saved(model, folder)


def saved(model: SegFormer, folder: Path) -> str:
    torch.nn.init.normal_(model.head.classifier.weight, std=0.5)  # logits that differ visibly
    save_model(model, str(folder))
    return str(folder)

"""Checkpoints as torch.save writes them, read or refused in one line; their weights compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from segformer import Checkpoint, CheckpointError, read_checkpoint


def read(value: Any, path: Path, weights: str | None = None) -> Checkpoint:
    """The checkpoint that torch.save makes of a value."""
    torch.save(value, path)
    return read_checkpoint(str(path), weights=weights)


def refusal(value: Any, path: Path, weights: str | None = None) -> str:
    """The refusal of what torch.save makes of a value: one line that names the file; without it."""
    with pytest.raises(CheckpointError) as caught:
        read(value, path, weights)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def assert_same_weights(checkpoint: Checkpoint, expected: Checkpoint) -> None:
    assert checkpoint.weights.keys() == expected.weights.keys()
    for name, tensor in expected.weights.items():
        assert torch.equal(checkpoint.weights[name], tensor), name

"""SegFormer: the network, its checkpoints and its configuration.

    from segformer import load_model
    model = load_model("path/or/url")       # eval mode, float32, folded
    logits_NKHW = model(pixels_NCHW)        # normalised float32 in, quarter resolution out

Knows tensors and checkpoint folders. Knows nothing of images, scenes, windows and jobs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segformer.checkpoints.checkpoint import (
        Checkpoint,
        checkpoint_sha256,
        read_checkpoint,
        write_checkpoint,
    )
    from segformer.config import ModelConfig, NormEps
    from segformer.errors import CheckpointError, SwathError
    from segformer.network import SegFormer, load_model
    from segformer.normalisation import Normalisation
    from segformer.presets import MIT, mit_config

__all__ = [
    "MIT",
    "Checkpoint",
    "CheckpointError",
    "ModelConfig",
    "NormEps",
    "Normalisation",
    "SegFormer",
    "SwathError",
    "checkpoint_sha256",
    "load_model",
    "mit_config",
    "read_checkpoint",
    "write_checkpoint",
]

# Names are fetched when asked for: torch takes seconds to load, and `segformer.errors`, which the
# commands need for their first refusal, does not need it.
_HOMES = {
    "MIT": "presets",
    "Checkpoint": "checkpoints.checkpoint",
    "CheckpointError": "errors",
    "ModelConfig": "config",
    "NormEps": "config",
    "Normalisation": "normalisation",
    "SegFormer": "network",
    "SwathError": "errors",
    "checkpoint_sha256": "checkpoints.checkpoint",
    "load_model": "network",
    "mit_config": "presets",
    "read_checkpoint": "checkpoints.checkpoint",
    "write_checkpoint": "checkpoints.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"segformer.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

"""SegFormer: the network, its checkpoints and its configuration.

    from segformer import load_model
    model = load_model("path/or/url")       # eval mode, float32, folded
    logits_NKHW = model(pixels_NCHW)        # normalised float32 in, quarter resolution out

Knows tensors and checkpoint folders. Knows nothing of images, scenes, windows and jobs.
"""

from __future__ import annotations

from segformer.checkpoint import checkpoint_sha256, load_model, save_model
from segformer.config import ModelConfig
from segformer.errors import CheckpointError, SwathError
from segformer.network import SegFormer
from segformer.normalisation import Normalisation
from segformer.presets import MIT, mit_config

__all__ = [
    "MIT",
    "CheckpointError",
    "ModelConfig",
    "Normalisation",
    "SegFormer",
    "SwathError",
    "checkpoint_sha256",
    "load_model",
    "mit_config",
    "save_model",
]

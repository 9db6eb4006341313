"""SegFormer: the network, its checkpoints and its configuration.

    from segformer import load_model
    model = load_model("path/or/url")       # eval mode, float32, folded
    logits_NKHW = model(pixels_NCHW)        # normalized float32 in, quarter resolution out

Knows tensors and checkpoint folders; knows no image, scene, window or job.

errors.py         SwathError, the root of all errors; CheckpointError
compiled.py       functions as machine code, compiled once per machine
code_sources.py   what the machine code of a function is made from: its key in the cache
classes.py        names and colors of the classes, in transformers' and mmsegmentation's files
norm_eps.py       NormEps, what each origin's layer norms add to the variance
config.py         ModelConfig, what config.json says: the sizes of the network and its classes
normalisation.py  Normalisation: stored values to network input, and what these numbers can be
normalisation_options.py  the numbers that a user gives in place of a checkpoint's
preprocessor.py   the normalization that a checkpoint's files state
presets.py        the six published sizes, MiT-B0 to B5; which of them a config is
flops.py          the arithmetic that a window takes
checkpoints/      checkpoint files of four origins as named weights, without trusting them
folding.py        the weights as the network runs them: consecutive linear steps multiplied out
operations/       what lies between matrix products, on CPUs, on GPUs and in torch's own words
network.py        SegFormer as a torch module; load_model
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
    from segformer.config import ModelConfig
    from segformer.errors import CheckpointError, SwathError, UnavailableError
    from segformer.network import SegFormer, load_model
    from segformer.norm_eps import NormEps
    from segformer.normalisation import Normalisation
    from segformer.normalisation_options import NormalisationOptions
    from segformer.presets import MIT, mit_config

__all__ = [
    "MIT",
    "Checkpoint",
    "CheckpointError",
    "ModelConfig",
    "NormEps",
    "Normalisation",
    "NormalisationOptions",
    "SegFormer",
    "SwathError",
    "UnavailableError",
    "checkpoint_sha256",
    "load_model",
    "mit_config",
    "read_checkpoint",
    "write_checkpoint",
]

# Names are imported on first use: torch takes seconds to load, and `segformer.errors`, which the
# commands need for their first refusal, does not need it.
_HOMES = {
    "MIT": "presets",
    "Checkpoint": "checkpoints.checkpoint",
    "CheckpointError": "errors",
    "ModelConfig": "config",
    "NormEps": "norm_eps",
    "Normalisation": "normalisation",
    "NormalisationOptions": "normalisation_options",
    "SegFormer": "network",
    "SwathError": "errors",
    "UnavailableError": "errors",
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

"""Checkpoints in transformers' format: load, save, identify.

Knows the files of a checkpoint folder; knows nothing of scenes and jobs.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segformer.config import ModelConfig
from segformer.errors import CheckpointError
from segformer.folder import (
    CONFIG,
    INDEX,
    PICKLE,
    PREPROCESSOR,
    SAFETENSORS,
    Folder,
    first_line,
    parse,
)
from segformer.keys import from_transformers, to_transformers
from segformer.network import SegFormer
from segformer.normalisation import Normalisation, preprocessor_notes


def load_model(
    path_or_url: str, *, storage_options: Mapping[str, Any] | None = None, fold: bool = True
) -> SegFormer:
    """The model of a checkpoint folder, in eval mode, float32, on the CPU.

    storage_options: handed to fsspec. fold: compose the head's linear layers (exact, and twice as
    fast); False for training, `save_model` and comparisons. Half-precision weights are widened.
    Raises CheckpointError, one line, if anything is missing or does not fit.
    """
    folder = Folder(str(path_or_url), storage_options)
    config_fields = parse(f"{folder.shown}/{CONFIG}", folder.require_config())
    with naming(folder.shown):
        config = ModelConfig.from_json(config_fields)
    preprocessor = folder.read(PREPROCESSOR)
    with naming(folder.shown):
        if preprocessor is None:
            normalisation = Normalisation.default(config.num_channels)
            config = config.with_notes(normalisation.assumed)
        else:
            fields = parse(f"{folder.shown}/{PREPROCESSOR}", preprocessor)
            normalisation = Normalisation.from_json(fields, config.num_channels)
            config = config.with_notes(*preprocessor_notes(fields))
    # Built without memory and without drawing random numbers; the weights are put in place.
    with torch.device("meta"):
        model = SegFormer(config, normalisation)
    tensors: dict[str, Tensor] = {}
    for name, data in folder.weights().items():
        with naming(f"{folder.shown}/{name}"):
            if name != INDEX:
                tensors.update(read_tensors(name, data))
    with naming(folder.shown):
        state = from_transformers(tensors, model.state_dict())
        model.load_state_dict({name: to_float32(name, t) for name, t in state.items()}, assign=True)
    model.eval()
    return model.fold() if fold else model


def save_model(model: SegFormer, folder_url: str, *, half: bool = False) -> None:
    """Write a checkpoint folder that `load_model` and transformers' from_pretrained read.

    model: unfolded. half: matrices and kernels in float16, half the size; norms and biases stay
    float32. Existing files of these names are replaced.
    """
    if model.folded:
        raise CheckpointError("a folded model cannot be saved; load it with fold=False")
    tensors = {
        # contiguous twice: safetensors refuses channels_last memory, and shared memory.
        name: (t.half() if half and t.ndim > 1 else t).detach().cpu().contiguous().clone()
        for name, t in to_transformers(model.state_dict()).items()
    }
    folder = Folder(str(folder_url), None)
    folder.write(SAFETENSORS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    folder.write(PREPROCESSOR, as_json(model.normalisation.to_json()))
    folder.write(CONFIG, as_json(model.config.to_json()))


def checkpoint_sha256(path_or_url: str, *, storage_options: Mapping[str, Any] | None = None) -> str:
    """Identity of a checkpoint: over the names, lengths and bytes of the files load_model uses."""
    folder = Folder(str(path_or_url), storage_options)
    files = {CONFIG: folder.require_config(), **folder.weights()}
    if (preprocessor := folder.read(PREPROCESSOR)) is not None:
        files[PREPROCESSOR] = preprocessor
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def read_tensors(name: str, data: bytes) -> dict[str, Tensor]:
    """The tensors of one weights file. Raises CheckpointError; never runs code from the file."""
    try:
        if name != PICKLE:
            return safetensors.torch.load(data)
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "holds more than tensors, or is damaged, and is not executed;"
            f" convert it to {SAFETENSORS} where you trust it"
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise CheckpointError(
            f"is truncated or damaged ({len(data)} bytes: {first_line(error)}); fetch it again"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError("is not a state dict: it must map names to tensors")
    return tensors


def to_float32(name: str, tensor: Tensor) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return tensor.long()
    if not tensor.is_floating_point():
        raise CheckpointError(f"{name} is {tensor.dtype}, but quantised weights are not supported")
    wide = tensor.float().contiguous()
    if bad := int((~torch.isfinite(wide)).sum()):
        raise CheckpointError(
            f"{name}: {bad} of {wide.numel()} weights are not finite; train or fetch it again"
        )
    return wide


def as_json(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Says in which file or folder a CheckpointError arose."""
    try:
        yield
    except CheckpointError as error:
        prefix = "" if str(error).startswith(place) else f"{place}: "
        raise CheckpointError(f"{prefix}{error}") from error.__cause__

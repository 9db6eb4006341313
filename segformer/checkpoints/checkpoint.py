"""Checkpoints: reads those of transformers, NVlabs and mmsegmentation, writes transformers'.

Knows which part of a checkpoint says what; knows no scene and no job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segformer.checkpoints import torch_files
from segformer.checkpoints.folder import (
    CONFIG,
    PREPROCESSOR,
    SAFETENSORS,
    Files,
    Folder,
    first_line,
    parse,
    read_files,
)
from segformer.checkpoints.layouts import UNUSED_COUNT, to_transformers
from segformer.checkpoints.sizes import channels_of_classifier, size_name, sizes_of
from segformer.checkpoints.state import State
from segformer.classes import classes_of_meta
from segformer.config import ModelConfig
from segformer.errors import CheckpointError
from segformer.normalisation import (
    Normalisation,
    normalisation_of_meta,
    preprocessor_notes,
)

Meta = Mapping[Any, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A network as it was trained, under our own names."""

    config: ModelConfig
    normalisation: Normalisation
    weights: dict[str, Tensor]
    """float32, on the CPU; names and shapes are those of `layouts.weight_shapes(config)`."""
    origin: str
    """Whose layout its file has: transformers, nvlabs or mmsegmentation."""


def read_checkpoint(
    path_or_url: str, *, storage_options: Mapping[str, Any] | None = None
) -> Checkpoint:
    """The checkpoint in a folder or in one file of weights; recognised by the names of its weights.

    storage_options: handed to fsspec. Half-precision weights are widened. No code of a file is run.
    Raises CheckpointError, one line, if anything is missing or does not fit.
    """
    files = read_files(str(path_or_url), storage_options)
    # A config that is not of a SegFormer is refused before any weight is looked at.
    stated = None if files.single else _stated_config(files)
    tensors: dict[str, Tensor] = {}
    meta: Meta = {}
    for name, data in files.weights.items():
        with naming(files.place(name)):
            found, meta = read_tensors(data)
            tensors.update(found)
    with naming(files.shown):
        state = State.of(tensors)
        origin = state.layout.origin
        if origin == "transformers" and files.config is not None:
            stated = stated or _stated_config(files)
        elif stated is not None:
            raise CheckpointError(
                f"has a {CONFIG} of transformers, but weights as {origin} names them;"
                f" give the file of weights itself, {next(iter(files.weights))}"
            )
        config = stated or _inferred_config(state, meta)
        normalisation, notes = _normalisation(files, meta, config.num_channels)
        weights = state.weights(config, CONFIG if stated else "set of sizes")
        weights = {name: to_float32(name, tensor) for name, tensor in weights.items()}
    return Checkpoint(config.with_notes(*notes), normalisation, weights, origin)


def there(folder_url: str, *, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """Which files of a checkpoint stand in a folder already."""
    return Folder(str(folder_url), storage_options).there()


def write_checkpoint(
    checkpoint: Checkpoint,
    folder_url: str,
    *,
    half: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder that `read_checkpoint` and transformers' from_pretrained read.

    half: matrices and kernels in float16, half the size; norms and biases stay float32. Existing
    files of these names are replaced. Raises CheckpointError for a network that transformers does
    not have, before anything is written.
    """
    config = as_json(checkpoint.config.to_json())
    tensors = {
        # contiguous twice: safetensors refuses channels_last memory, and shared memory.
        name: (t.half() if half and t.ndim > 1 else t).detach().cpu().contiguous().clone()
        for name, t in to_transformers(checkpoint.weights).items()
    }
    folder = Folder(str(folder_url), storage_options)
    folder.write(SAFETENSORS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    folder.write(PREPROCESSOR, as_json(checkpoint.normalisation.to_json()))
    folder.write(CONFIG, config)


def checkpoint_sha256(path_or_url: str, *, storage_options: Mapping[str, Any] | None = None) -> str:
    """Identity of a checkpoint: over the names, lengths and bytes of the files that are read.

    A single file of weights may be renamed without becoming another checkpoint.
    """
    files = read_files(str(path_or_url), storage_options)
    parts = dict(files.weights)
    if files.single:
        parts = {"weights": next(iter(parts.values()))}
    for name, data in ((CONFIG, files.config), (PREPROCESSOR, files.preprocessor)):
        if data is not None:
            parts[name] = data
    digest = hashlib.sha256()
    for name, data in sorted(parts.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _stated_config(files: Files) -> ModelConfig:
    assert files.config is not None
    place = files.place(CONFIG)
    with naming(place.removesuffix(f"/{CONFIG}")):
        return ModelConfig.from_json(parse(place, files.config))


def _inferred_config(state: State, meta: Meta) -> ModelConfig:
    channels = channels_of_classifier(state)
    names, colors, notes = classes_of_meta(meta, channels)
    config = ModelConfig(
        **sizes_of(state),
        sigmoid=channels == 1,
        class_names=names,
        class_colors=colors,
        notes=notes,
    )
    if size_name(config) == "custom":
        config = config.with_notes(
            "strides of 4, 2, 2, 2 and attention heads of the first stage's width are assumed: the"
            " file does not state them, and its sizes are none of the published ones"
        )
    return config


def _normalisation(
    files: Files, meta: Meta, channels: int
) -> tuple[Normalisation, tuple[str, ...]]:
    if files.preprocessor is None:
        return normalisation_of_meta(meta, channels)
    fields = parse(files.place(PREPROCESSOR), files.preprocessor)
    return Normalisation.from_json(fields, channels), preprocessor_notes(fields)


def read_tensors(data: bytes) -> tuple[dict[str, Tensor], Meta]:
    """The tensors of one weights file, and what it says about itself.

    Raises CheckpointError; never runs code from the file.
    """
    try:
        if data.startswith((torch_files.ZIP, torch_files.LEGACY)):
            return torch_files.state_dict(data)
        if len(data) >= 8 and 0 not in data[:8]:  # safetensors begins with a length in 64 bits
            raise ValueError("it begins as neither PyTorch nor safetensors do")
        return safetensors.torch.load(data), {}
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise CheckpointError(
            f"is truncated or damaged, or no file of weights ({len(data)} bytes:"
            f" {first_line(error)}); fetch it again"
        ) from error


def to_float32(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(UNUSED_COUNT):
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

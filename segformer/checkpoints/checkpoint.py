"""Checkpoints: reads those of transformers, NVlabs and mmsegmentation, writes transformers'.

Knows which part of a checkpoint says what; knows no network, no scene and no job.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from segformer.checkpoints.choice import choose
from segformer.checkpoints.files import Files, read_files
from segformer.checkpoints.folder import (
    CONFIG,
    PREPROCESSOR,
    SAFETENSORS,
    Folder,
    parse,
)
from segformer.checkpoints.layouts import UNUSED_COUNT, to_transformers
from segformer.checkpoints.sizes import classifier_channels, infer_sizes
from segformer.checkpoints.state_dict import StateDict
from segformer.checkpoints.weight_file import Metadata, WeightFile, open_weight_file
from segformer.classes import classes_of_meta
from segformer.config import BATCH_NORM_EPS, ModelConfig
from segformer.errors import CheckpointError
from segformer.normalisation import Normalisation
from segformer.normalisation_options import CHECKPOINTS_OWN, NormalisationOptions
from segformer.preprocessor import (
    normalisation_of_meta,
    normalisation_of_preprocessor,
    preprocessor_notes,
)
from segformer.presets import size_name


@dataclass(frozen=True)
class Checkpoint:
    """A network as it was trained, under our own names."""

    config: ModelConfig
    """Sizes and classes of the network, and notes on the checkpoint."""
    normalisation: Normalisation
    """How stored values become the network's input."""
    weights: dict[str, Tensor]
    """float32, on the CPU; names and shapes are those of `layouts.weight_shapes(config)`."""
    origin: str
    """The code whose layout the files have: transformers, nvlabs or mmsegmentation."""
    sha256: str = ""
    """`checkpoint_sha256` of the very bytes that were read; empty if it was not read from files."""


def read_checkpoint(
    path_or_url: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    normalisation: NormalisationOptions = CHECKPOINTS_OWN,
) -> Checkpoint:
    """Read a checkpoint from a folder, from one file of weights, or from the Hugging Face Hub by a
    name such as `hf:org/name@revision`.

    The names of the weights tell its origin, and which of them are the network's: what training
    left beside them is noted. Half-precision weights are widened. No code in a file is run.
    storage_options: handed to fsspec. normalisation: numbers that replace the checkpoint's. Raises
    CheckpointError, one line, if anything is missing or does not fit.
    """
    files = read_files(str(path_or_url), storage_options)
    # Another model's config is refused before any weight is parsed.
    stated = None if files.is_single else _stated_config(files)
    opened: dict[str, WeightFile] = {}
    for name, data in files.weights.items():
        with errors_at(files.shown_file(name)):
            opened[name] = open_weight_file(data)

    def read(names: Collection[str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, file in opened.items():
            with errors_at(files.shown_file(name)):
                tensors |= file.read(names)
        return tensors

    with errors_at(files.shown_url):
        chosen = choose(list(opened.values()), read)
        state = StateDict.of(read(set(chosen.names)), chosen.network)
        origin = state.layout.origin
        if origin == "transformers" and files.config is not None:
            stated = stated or _stated_config(files)
        elif stated is not None:
            raise CheckpointError(
                f"has a {CONFIG} of transformers, but weights as {origin} names them;"
                f" give the file of weights itself, {next(iter(files.weights))}"
            )
        config = stated or _inferred_config(state, chosen.metadata)
        settled, notes = _normalisation(files, chosen.metadata, config.num_channels, normalisation)
        weights = state.weights(config, CONFIG if stated else "set of sizes")
        weights = {name: to_float32(name, tensor) for name, tensor in weights.items()}
    config = config.with_notes(*chosen.notes, *notes)
    return Checkpoint(config, settled, weights, origin, files.sha256())


def existing_files(
    folder_url: str, *, storage_options: Mapping[str, Any] | None = None
) -> list[str]:
    """The names of a checkpoint's files that a folder holds; [] if there is no such folder.

    Raises CheckpointError if it is a file.
    """
    return Folder(str(folder_url), storage_options).existing_files()


def write_checkpoint(
    checkpoint: Checkpoint,
    folder_url: str,
    *,
    half: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder that `read_checkpoint` and transformers' from_pretrained read.

    half: write matrices and kernels in float16, half the size; norms and biases stay float32.
    Existing files of these names are replaced. Raises CheckpointError for a network that
    transformers does not have, before anything is written.
    """
    config = as_json(checkpoint.config.to_json())
    tensors = {
        # safetensors refuses channels_last memory (hence contiguous) and shared memory (clone).
        name: (t.half() if half and t.ndim > 1 else t).detach().cpu().contiguous().clone()
        for name, t in to_transformers(checkpoint.weights).items()
    }
    folder = Folder(str(folder_url), storage_options)
    folder.write(SAFETENSORS, safetensors.torch.save(tensors, metadata={"format": "pt"}))
    folder.write(PREPROCESSOR, as_json(checkpoint.normalisation.to_json()))
    folder.write(CONFIG, config)


def checkpoint_sha256(path_or_url: str, *, storage_options: Mapping[str, Any] | None = None) -> str:
    """Identity of a checkpoint: see `files.Files.sha256`. Raises CheckpointError if a file is
    missing; does not look at the weights."""
    return read_files(str(path_or_url), storage_options).sha256()


def _stated_config(files: Files) -> ModelConfig:
    assert files.config is not None
    file = files.shown_file(CONFIG)
    with errors_at(file.removesuffix(f"/{CONFIG}")):
        return ModelConfig.from_json(parse(file, files.config))


def _inferred_config(state: StateDict, metadata: Metadata) -> ModelConfig:
    channels = classifier_channels(state)
    names, colors, notes = classes_of_meta(metadata, channels)
    config = ModelConfig(
        **infer_sizes(state),
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
    files: Files, metadata: Metadata, channels: int, options: NormalisationOptions
) -> tuple[Normalisation, tuple[str, ...]]:
    """The normalization, and notes on it."""
    if files.preprocessor is None:
        return normalisation_of_meta(metadata, channels, options)
    fields = parse(files.shown_file(PREPROCESSOR), files.preprocessor)
    return normalisation_of_preprocessor(fields, channels, options), preprocessor_notes(fields)


def to_float32(name: str, tensor: Tensor) -> Tensor:
    """A weight, widened. Raises CheckpointError for quantized weights, and for NaN and infinity."""
    if name.endswith(UNUSED_COUNT):
        return tensor.long()
    if not tensor.is_floating_point():
        raise CheckpointError(
            f"{name} is {tensor.dtype}, but quantized weights are not supported; give the network"
            " as it was before"
        )
    wide = tensor.float().contiguous()
    if bad := int((~torch.isfinite(wide)).sum()):
        raise CheckpointError(
            f"{name}: {bad} of {wide.numel()} weights are not finite; train or fetch it again"
        )
    if name.endswith("running_var") and bool((wide <= -BATCH_NORM_EPS).any()):
        raise CheckpointError(f"{name} is negative, which no variance is; train or fetch it again")
    return wide


def as_json(fields: dict[str, Any]) -> bytes:
    """The bytes of a JSON file of ours."""
    return (json.dumps(fields, indent=2) + "\n").encode()


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Prefixes a CheckpointError with the file or folder in which it arose."""
    try:
        yield
    except CheckpointError as error:
        prefix = "" if str(error).startswith(place) else f"{place}: "
        raise CheckpointError(f"{prefix}{error}") from error.__cause__

"""Checkpoints: reads those of transformers, NVlabs, smp and mmsegmentation, writes transformers'.

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

from segformer.checkpoints import smp
from segformer.checkpoints.choice import Choice, choose
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
from segformer.checkpoints.transforms import TRANSFORMS, normalisation_of_transforms
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
    """The code whose layout the files have: transformers, nvlabs, smp or mmsegmentation."""
    sha256: str = ""
    """`checkpoint_sha256` of the very bytes that were read; empty if it was not read from files."""


def read_checkpoint(
    path_or_url: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    weights: str | None = None,
    normalisation: NormalisationOptions = CHECKPOINTS_OWN,
) -> Checkpoint:
    """Read a checkpoint from a folder, from one file of weights, or from the Hugging Face Hub by a
    name such as `hf:org/name@revision`.

    The names of the weights tell its origin, and which of them are the network's: what training
    left beside them is noted. Half-precision weights are widened. No code in a file is run.
    storage_options: handed to fsspec. weights: "ema" takes an average of the weights, "raw" those
    that were trained; None: raw ones, but an average that its program keeps as the weights.
    normalisation: numbers that replace the checkpoint's. Raises
    CheckpointError, one line, if anything is missing or does not fit.
    """
    files = read_files(str(path_or_url), storage_options)
    config_origin = "smp" if smp.parse_config(files.config) else "transformers"
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
        chosen = choose(list(opened.values()), read, weights)
        state = StateDict.of(read(set(chosen.names)), chosen.network)
        origin = state.layout.origin
        if not files.is_single and origin != config_origin:
            raise CheckpointError(
                f"has a {CONFIG} of {config_origin}, but weights as {origin} names them;"
                f" give the file of weights itself, {next(iter(files.weights))}"
            )
        if files.is_single and files.config is not None and origin == config_origin:
            stated = _stated_config(files)
        config = stated or _inferred_config(state, chosen)
        settled, notes = _normalisation(files, chosen.metadata, config.num_channels, normalisation)
        tensors = state.weights(config, CONFIG if stated else "set of sizes")
        tensors = {name: to_float32(name, tensor) for name, tensor in tensors.items()}
    config = config.with_notes(*chosen.notes, *notes)
    return Checkpoint(config, settled, tensors, origin, files.sha256())


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
    """Write a checkpoint folder that `read_checkpoint` and transformers' from_pretrained read; of a
    network with mmsegmentation's head, which transformers does not have, `read_checkpoint` alone.

    half: write matrices and kernels in float16, half the size; norms and biases stay float32.
    Existing files of these names are replaced.
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


def _stated_config(files: Files) -> ModelConfig | None:
    """What config.json says of the network; None if it is smp's, which says no more than the
    weights do. Raises CheckpointError if it is another network's."""
    assert files.config is not None
    file = files.shown_file(CONFIG)
    with errors_at(file.removesuffix(f"/{CONFIG}")):
        if fields := smp.parse_config(files.config):
            smp.check_config(fields)
            return None
        return ModelConfig.from_json(parse(file, files.config))


def _inferred_config(state: StateDict, chosen: Choice) -> ModelConfig:
    channels, metadata = classifier_channels(state), chosen.metadata
    task_notes: tuple[str, ...] = ()
    if state.layout.origin == "smp":
        smp.check_hyper_parameters(chosen.hyper_parameters)
        metadata = {**smp.classes_of(chosen.hyper_parameters), **metadata}
        task_notes = smp.task_notes(chosen.hyper_parameters, channels)
    names, colors, notes = classes_of_meta(metadata, channels)
    config = ModelConfig(
        **infer_sizes(state),
        sigmoid=channels == 1,
        class_names=names,
        class_colors=colors,
        notes=(*notes, *task_notes),
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
    if files.preprocessor is not None:
        fields = parse(files.shown_file(PREPROCESSOR), files.preprocessor)
        settled = normalisation_of_preprocessor(fields, channels, options)
        return settled, preprocessor_notes(fields)
    notes: tuple[str, ...] = ()
    if files.transforms is not None:
        fields = parse(files.shown_file(TRANSFORMS), files.transforms)
        normalisation, notes = normalisation_of_transforms(fields, channels, options)
        if normalisation:
            return normalisation, notes
    normalisation, more = normalisation_of_meta(metadata, channels, options)
    return normalisation, (*notes, *more)


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

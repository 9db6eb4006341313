"""The normalization that a checkpoint's files state: preprocessor_config.json, or the training
configuration in mmsegmentation's files; ImageNet's if neither does.

Knows transformers' format (models/segformer/image_processing_segformer.py, Apache-2.0); knows no
file system, no pixels and no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from segformer.errors import CheckpointError
from segformer.normalisation import (
    ASSUMED,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PREPROCESSOR,
    Normalisation,
    Sources,
    fault_of,
    row,
)
from segformer.normalisation_options import CHECKPOINTS_OWN, NormalisationOptions

TRANSFORMERS = "transformers' default"
TRAINING = "training configuration in the file"
"""Sources of numbers, beside the files and options."""


def normalisation_of_preprocessor(
    fields: Mapping[str, Any], num_channels: int, options: NormalisationOptions = CHECKPOINTS_OWN
) -> Normalisation:
    """Read the parsed preprocessor_config.json. What the options replace is not looked at. Raises
    CheckpointError, naming the field or the option."""
    rescale: tuple[float, ...] = (1.0,)
    mean, std = (0.0,) * num_channels, (1.0,) * num_channels
    sources = dict.fromkeys(Sources._fields, PREPROCESSOR)
    if options.rescale is None and _flag(fields, "do_rescale"):
        rescale, sources["rescale"] = _numbers(fields, "rescale_factor", 1 / 255, 1)
    if options.mean is None and _flag(fields, "do_normalize"):
        mean, sources["mean"] = _numbers(fields, "image_mean", IMAGENET_MEAN, num_channels)
    if options.std is None and _flag(fields, "do_normalize"):
        std, sources["std"] = _numbers(fields, "image_std", IMAGENET_STD, num_channels)
    if len(mean) != num_channels or len(std) != num_channels:
        raise CheckpointError(
            f"{PREPROCESSOR}: {len(mean)} values of image_mean and {len(std)} of image_std for"
            f" {num_channels} channels; give one per channel"
        )
    stated = Normalisation(rescale[0], mean, std, Sources(**sources))
    if options.is_given:
        return options.replace(stated, num_channels)
    if fault := fault_of(stated.rescale, mean, std):
        raise CheckpointError(
            f"{PREPROCESSOR}: image_mean {row(mean)} and image_std {row(std)}:"
            f" {fault.reason}; {fault.remedy}"
        )
    return stated


def preprocessor_notes(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Notes on what preprocessor_config.json asks for and Swath does not do."""
    if not fields.get("do_resize", True):
        return ()
    size = fields.get("size", 512)
    if isinstance(size, dict):
        size = " x ".join(str(v) for v in size.values())
    return (
        f"{PREPROCESSOR} resizes images to {size}; Swath does not:"
        " windows are cut at the resolution of the scene",
    )


def normalisation_of_meta(
    meta: Mapping[Any, Any], num_channels: int, options: NormalisationOptions = CHECKPOINTS_OWN
) -> tuple[Normalisation, tuple[str, ...]]:
    """The normalization of the configuration in a file of mmsegmentation (0.x `config`, 1.x `cfg`),
    or else ImageNet's, with the numbers that the options give; and notes. Raises CheckpointError if
    none applies."""
    text = next((t for name in ("cfg", "config") if isinstance(t := meta.get(name), str)), "")
    replaced = options.mean is not None and options.std is not None
    trained = None if replaced else normalisation_of_training(text, num_channels)
    if trained is None:
        result, notes = _assumed(num_channels, options)
    else:
        result = options.replace(trained, num_channels) if options.is_given else trained
        notes = (f"the normalization is that of the {TRAINING} ({trained})",)
    if (replaced or trained) and re.search(r"to_rgb\s*=\s*False", text):
        notes += (
            "the training configuration in the file did not turn BGR into RGB (to_rgb=False): name"
            " the bands in the order of the training, e.g. --bands 3,2,1",
        )
    return result, notes


def normalisation_of_training(text: str, num_channels: int) -> Normalisation | None:
    """Read mmsegmentation's training configuration, a Python text whose mean and std are in stored
    values. None unless it states exactly one mean and one std for each channel. Raises
    CheckpointError for numbers that no values from 0 to 255, or larger ones, can have."""
    mean_and_std = []
    for name in ("mean", "std"):
        # Bounded in length and depth, so that no text takes long.
        lists = re.findall(rf"\b{name}\s{{0,9}}=\s{{0,9}}[\[(]([^\[\]()]{{0,999}})[\])]", text)
        try:
            values = {tuple(float(v) for v in part.split(",") if v.strip()) for part in lists}
        except ValueError:
            return None
        if len(values) != 1 or len(next(iter(values))) != num_channels:
            return None
        mean_and_std.append(values.pop())
    mean, std = mean_and_std
    if fault := fault_of(1.0, mean, std):
        raise CheckpointError(
            f"its training configuration states a mean of {row(mean)} and a std of"
            f" {row(std)}: {fault.reason}; write a {PREPROCESSOR} beside the file with the"
            " rescale_factor, image_mean and image_std that the network was trained with, or give"
            " --mean and --std"
        )
    mean, std = (tuple(v / 255 for v in values) for values in mean_and_std)
    return Normalisation(1 / 255, mean, std, Sources(TRAINING, TRAINING, TRAINING))


def _assumed(
    num_channels: int, options: NormalisationOptions
) -> tuple[Normalisation, tuple[str, ...]]:
    """ImageNet's normalization, unless the options name another one; and notes. Raises
    CheckpointError."""
    if options.mean is None and options.std is None:
        default = Normalisation.default(num_channels)
        default = options.replace(default, num_channels) if options.is_given else default
        return default, (default.assumed,)
    if options.mean is None or options.std is None:
        given, missing = ("--std", "--mean") if options.mean is None else ("--mean", "--std")
        raise CheckpointError(f"{given} needs {missing}, too: the checkpoint states neither")
    plain = Normalisation(1 / 255, options.mean, options.std, Sources(ASSUMED))
    return options.replace(plain, num_channels), ()


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    """A key that is true or false; absent: true. Raises CheckpointError."""
    value = fields.get(name, True)
    if value not in (True, False):
        raise CheckpointError(
            f"{PREPROCESSOR}: {name} is {_shown(value)}; write true or false, or remove it for true"
        )
    return bool(value)


def _numbers(
    fields: Mapping[str, Any], name: str, default: Any, count: int
) -> tuple[tuple[float, ...], str]:
    """The numbers of a key, and their source. Like transformers, accepts one number for all
    channels. Raises CheckpointError."""
    value = fields.get(name, default)
    listed = value if isinstance(value, list | tuple) else [value] * count
    try:
        if any(isinstance(v, bool) for v in listed):
            raise TypeError
        if name == "rescale_factor" and len(listed) != 1:
            raise ValueError
        return tuple(float(v) for v in listed), PREPROCESSOR if name in fields else TRANSFORMERS
    except (TypeError, ValueError, OverflowError):
        what = "a number" if name == "rescale_factor" else "one number per channel"
        raise CheckpointError(
            f"{PREPROCESSOR}: {name} is {_shown(value)}; write {what}, or remove it for"
            " transformers' own"
        ) from None


def _shown(value: Any) -> str:
    return json.dumps(value)[:100]

"""The normalization in the file of albumentations' transforms that folders of smp's models have.

As albumentations writes it with `save_pretrained` (core/hub_mixin.py, core/serialization.py; MIT).
Knows a parsed file; knows no file system and no image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from segformer.errors import CheckpointError
from segformer.normalisation import PREPROCESSOR, UINT8_MAX, Normalisation, Sources
from segformer.normalisation_options import CHECKPOINTS_OWN, NormalisationOptions

TRANSFORMS = "albumentations_config_eval.json"
_RESIZING = ("Resize", "RandomScale", "LongestMaxSize", "SmallestMaxSize")
_REMEDY = (
    f"write a {PREPROCESSOR} beside it with the rescale_factor, image_mean and image_std that the"
    " network was trained with, or give --mean, --std and --rescale"
)


def normalisation_of_transforms(
    fields: Mapping[str, Any], num_channels: int, options: NormalisationOptions = CHECKPOINTS_OWN
) -> tuple[Normalisation | None, tuple[str, ...]]:
    """What the file's Normalize does, with the numbers that the options give; None if it has none;
    and notes.

    Raises CheckpointError for one that depends on the image or contradicts itself. What the options
    replace is not looked at.
    """
    transforms = list(_transforms(fields.get("transform")))
    kinds = [name for name, _ in transforms]
    notes = tuple(
        f"{TRANSFORMS} resizes images ({kind}); Swath does not: windows are cut at the resolution"
        " of the scene"
        for kind in kinds
        if kind in _RESIZING
    )
    normalisations = {
        _normalisation(t, num_channels, options) for kind, t in transforms if kind == "Normalize"
    }
    if len(normalisations) > 1:
        raise CheckpointError(f"{TRANSFORMS} has several Normalize, and not the same; {_REMEDY}")
    if not normalisations:
        return None, (*notes, f"{TRANSFORMS} has no Normalize")
    (normalisation,) = normalisations
    if options.is_given:
        return options.replace(normalisation, num_channels), notes
    return normalisation, (*notes, f"the normalization is that of {TRANSFORMS} ({normalisation})")


def _transforms(transform: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The transforms in a Compose of Composes, each with the last part of its class's name."""
    waiting = [transform]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, dict):
            yield str(current.get("__class_fullname__")).rpartition(".")[2], current
            inner = current.get("transforms")
            waiting += inner if isinstance(inner, list) else []


def _normalisation(
    fields: Mapping[str, Any], num_channels: int, options: NormalisationOptions
) -> Normalisation:
    """(value - mean * max_pixel_value) / (std * max_pixel_value), in our form."""
    how = fields.get("normalization", "standard")
    if how != "standard" and (options.mean is None or options.std is None):
        raise CheckpointError(
            f"{TRANSFORMS}: Normalize takes its numbers from each image (normalization {how!r}),"
            f" which Swath does not: windows would not agree; {_REMEDY}"
        )
    try:
        highest = float(fields.get("max_pixel_value") or UINT8_MAX)
        mean, std = (0.0,) * num_channels, (1.0,) * num_channels
        if options.mean is None:
            mean = _row(fields["mean"], num_channels)
        if options.std is None:
            std = _row(fields["std"], num_channels)
        stated = Normalisation(1 / highest, mean, std, Sources(TRANSFORMS, TRANSFORMS, TRANSFORMS))
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise CheckpointError(
            f"{TRANSFORMS}: Normalize is not as albumentations writes it; {_REMEDY}"
        ) from error
    if {len(mean), len(std)} != {num_channels}:
        raise CheckpointError(
            f"{TRANSFORMS}: Normalize has {len(mean)} values of mean and {len(std)} of std for"
            f" {num_channels} channels; {_REMEDY}"
        )
    if not options.is_given and stated.is_of_stored_values:
        raise CheckpointError(
            f"{TRANSFORMS}: the mean and std of Normalize do not go with its max_pixel_value"
            f" ({stated}); {_REMEDY}"
        )
    return stated


def _row(value: Any, count: int) -> tuple[float, ...]:
    """One number per channel, which may be given as one for all."""
    return tuple(float(v) for v in (value if isinstance(value, list) else [value] * count))

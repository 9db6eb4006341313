"""How stored values become network input: what `preprocessor_config.json` says of it.

Knows transformers' format (models/segformer/image_processing_segformer.py, Apache-2.0); knows no
file system, no pixels and no torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from segformer.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per channel (red, green, blue), of values from 0 to 1."""
PREPROCESSOR = "preprocessor_config.json"
UINT8_MAX, UINT16_MAX = 255, 65535
SMALLEST_UINT8_FACTOR = 1 / 300
"""Smaller factors are for values of more than 8 bits."""
_SPREAD = 3.0
"""Standard deviations beside the mean within which practically all values lie."""


@dataclass(frozen=True)
class Normalisation:
    """Network input = (stored value * rescale - mean) / std, per channel."""

    rescale: float
    """Factor of stored values, e.g. 1 / 255."""
    mean: tuple[float, ...]
    """Per channel, of rescaled values."""
    std: tuple[float, ...]
    """Per channel, of rescaled values."""

    @classmethod
    def default(cls, num_channels: int) -> Self:
        """ImageNet's, which is transformers' default. Raises CheckpointError unless there are 3
        channels."""
        if num_channels != len(IMAGENET_MEAN):
            raise CheckpointError(
                f"the network has {num_channels} channels and there is no preprocessor_config.json;"
                f" write one with image_mean and image_std of {num_channels} values each"
            )
        return cls(1 / 255, IMAGENET_MEAN, IMAGENET_STD)

    @property
    def assumed(self) -> str:
        """A note that the checkpoint states no normalization."""
        return (
            "the checkpoint has no preprocessor_config.json: ImageNet's normalization is used"
            f" ({self})"
        )

    @property
    def expected(self) -> tuple[float, float] | None:
        """The range of rescaled values that the network was trained on: 0 to 1 unless its mean and
        standard deviation are those of stored values (digital numbers); None: it has neither, and
        does not rescale."""
        pairs = {*zip(self.mean, self.std, strict=True)}
        if pairs == {(0.0, 1.0)} and self.rescale == 1:
            return None
        high = max(mean + _SPREAD * std for mean, std in pairs)
        if high <= _SPREAD:
            return 0.0, 1.0
        return min(0.0, *(mean - _SPREAD * std for mean, std in pairs)), high

    def __str__(self) -> str:
        unit = "values / 255" if self.rescale == 1 / 255 else f"values * {self.rescale:g}"
        return f"{unit}, mean {_row(self.mean)}, std {_row(self.std)}"

    @classmethod
    def from_training(cls, text: str, num_channels: int) -> Self | None:
        """Read mmsegmentation's training configuration, a Python text whose mean and std are in
        stored values. None unless it states exactly one mean and one std for each channel. Raises
        CheckpointError for numbers that no values from 0 to 255, or larger ones, can have."""
        mean_and_std = []
        for name in ("mean", "std"):
            # Bounded in length and depth, so that no text takes long.
            lists = re.findall(rf"\b{name}\s{{0,9}}=\s{{0,9}}[\[(]([^\[\]()]{{0,999}})[\])]", text)
            try:
                values = {tuple(float(v) for v in row.split(",") if v.strip()) for row in lists}
            except ValueError:
                return None
            if len(values) != 1 or len(next(iter(values))) != num_channels:
                return None
            mean_and_std.append(values.pop())
        mean, std = mean_and_std
        if fault := _fault(1.0, mean, std):
            raise CheckpointError(
                f"its training configuration states a mean of {_row(mean)} and a std of"
                f" {_row(std)}: {fault.reason}; write a {PREPROCESSOR} beside the file with the"
                " rescale_factor, image_mean and image_std that the network was trained with"
            )
        return cls(1 / 255, tuple(v / 255 for v in mean), tuple(v / 255 for v in std))

    @classmethod
    def from_json(cls, fields: dict[str, Any], num_channels: int) -> Self:
        """Read the parsed `preprocessor_config.json`. Raises CheckpointError, naming the field."""
        rescale = 1.0
        if _flag(fields, "do_rescale"):
            (rescale,) = _numbers("rescale_factor", fields.get("rescale_factor", 1 / 255), 1)
        mean, std = (0.0,) * num_channels, (1.0,) * num_channels
        if _flag(fields, "do_normalize"):
            mean = _numbers("image_mean", fields.get("image_mean", IMAGENET_MEAN), num_channels)
            std = _numbers("image_std", fields.get("image_std", IMAGENET_STD), num_channels)
        if len(mean) != num_channels or len(std) != num_channels:
            raise CheckpointError(
                f"{PREPROCESSOR}: {len(mean)} values of image_mean and {len(std)} of"
                f" image_std for {num_channels} channels; give one per channel"
            )
        if fault := _fault(rescale, mean, std):
            raise CheckpointError(
                f"{PREPROCESSOR}: image_mean {_row(mean)} and image_std {_row(std)}:"
                f" {fault.reason}; {fault.remedy}"
            )
        return cls(rescale, mean, std)

    @property
    def is_of_stored_values(self) -> bool:
        """Whether mean and std are those of raw numbers of more than 8 bits."""
        return _fault(self.rescale, self.mean, self.std) is not None

    def to_json(self) -> dict[str, Any]:
        """The keys that transformers' SegformerImageProcessor reads."""
        stored = self.is_of_stored_values
        mean, std = (
            [v / self.rescale if stored else v for v in values] for values in (self.mean, self.std)
        )
        return {
            "image_processor_type": "SegformerImageProcessor",
            "do_resize": False,
            "do_rescale": not stored,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": mean,
            "image_std": std,
            "do_reduce_labels": False,
        }


class Fault(NamedTuple):
    """Why numbers cannot be a normalization."""

    reason: str
    remedy: str


def _fault(rescale: float, mean: Sequence[float], std: Sequence[float]) -> Fault | None:
    """The contradiction between a factor, a mean and a std for each channel; None if there is none.

    Stored values end at 255, or at 65535 if the factor is made for that; rescaled by less than a
    half, no mean and no std can be beyond. Not rescaled, they are not from 0 to 1. A mean of 0 and
    a std of 1 mean that nothing is done.
    """
    train = "write the numbers that the network was trained with"
    if not 0 < rescale < math.inf:
        return Fault(f"rescale_factor {rescale:g} must be a positive number", train)
    if not all(map(math.isfinite, (*mean, *std))):
        return Fault("not all are finite", train)
    if min(std) <= 0:
        return Fault("every std must be positive", train)
    highest = max(map(abs, (*mean, *std)))
    if rescale < 0.5:
        end = max(1.0, rescale * (UINT8_MAX if rescale > SMALLEST_UINT8_FACTOR else UINT16_MAX))
        if highest > end * (1 + 1e-6):
            return Fault(
                f"rescaled by {rescale:.4g} (rescale_factor), no value is beyond {end:g}",
                'write "do_rescale": false if they are of values as stored, else multiply both by'
                " the rescale_factor",
            )
    elif highest <= 1 and not (set(mean) == {0.0} and set(std) == {1.0}):
        return Fault(
            "of values from 0 to 1, but values are not rescaled to that"
            f" (do_rescale, rescale_factor {rescale:g})",
            f'write "do_rescale": true and "rescale_factor": {1 / 255!r} (for uint8; --scale is'
            " for all other types)",
        )
    return None


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    """A key that is true or false; absent: true. Raises CheckpointError."""
    value = fields.get(name, True)
    if value not in (True, False):
        raise CheckpointError(
            f"{PREPROCESSOR}: {name} is {_shown(value)}; write true or false, or remove it for true"
        )
    return bool(value)


def _numbers(name: str, value: Any, count: int) -> tuple[float, ...]:
    """The numbers of a key. Like transformers, accepts one number for all channels. Raises
    CheckpointError."""
    listed = value if isinstance(value, list | tuple) else [value] * count
    try:
        if any(isinstance(v, bool) for v in listed):
            raise TypeError
        return tuple(float(v) for v in listed)
    except (TypeError, ValueError, OverflowError):
        what = "a number" if name == "rescale_factor" else "one number per channel"
        raise CheckpointError(
            f"{PREPROCESSOR}: {name} is {_shown(value)}; write {what}, or remove it for"
            " transformers' own"
        ) from None


def _shown(value: Any) -> str:
    return json.dumps(value)[:100]


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def preprocessor_notes(fields: dict[str, Any]) -> tuple[str, ...]:
    """Notes on what `preprocessor_config.json` asks for and Swath does not do."""
    if not fields.get("do_resize", True):
        return ()
    size = fields.get("size", 512)
    if isinstance(size, dict):
        size = " x ".join(str(v) for v in size.values())
    return (
        f"preprocessor_config.json resizes images to {size}; Swath does not:"
        " windows are cut at the resolution of the scene",
    )


def normalisation_of_meta(
    meta: Mapping[Any, Any], num_channels: int
) -> tuple[Normalisation, tuple[str, ...]]:
    """The normalization of the configuration in a file of mmsegmentation (0.x `config`, 1.x `cfg`),
    or else ImageNet's; and notes. Raises CheckpointError if neither applies."""
    text = next((t for name in ("cfg", "config") if isinstance(t := meta.get(name), str)), "")
    trained = Normalisation.from_training(text, num_channels)
    if trained is None:
        default = Normalisation.default(num_channels)
        return default, (default.assumed,)
    note = f"the normalization is that of the training configuration in the file ({trained})"
    if not re.search(r"to_rgb\s*=\s*False", text):
        return trained, (note,)
    return trained, (
        note,
        "the training configuration in the file did not turn BGR into RGB (to_rgb=False): name the"
        " bands in the order of the training, e.g. --bands 3,2,1",
    )

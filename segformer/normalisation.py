"""How stored values become network input: numbers, where they come from, and what they can be.

Knows neither files nor pixels nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from segformer.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per channel (red, green, blue), of values from 0 to 1."""
PREPROCESSOR = "preprocessor_config.json"
ASSUMED = "assumed, as for ImageNet"
"""The source of numbers that nobody states."""
UINT8_MAX, UINT16_MAX = 255, 65535
SMALLEST_UINT8_FACTOR = 1 / 300
"""Smaller factors are for values of more than 8 bits."""
_SPREAD = 3.0
"""Standard deviations beside the mean within which practically all values lie."""


class Sources(NamedTuple):
    """Where the numbers of a normalization come from, in words."""

    rescale: str = "unknown"
    mean: str = "unknown"
    std: str = "unknown"


@dataclass(frozen=True)
class Normalisation:
    """Network input = (stored value * rescale - mean) / std, per channel."""

    rescale: float
    """Factor of stored values, e.g. 1 / 255."""
    mean: tuple[float, ...]
    """Per channel, of rescaled values."""
    std: tuple[float, ...]
    """Per channel, of rescaled values."""
    sources: Sources = field(default=Sources(), compare=False)

    @classmethod
    def default(cls, num_channels: int) -> Self:
        """ImageNet's, which is transformers' default. Raises CheckpointError unless there are 3
        channels."""
        if num_channels != len(IMAGENET_MEAN):
            raise CheckpointError(
                f"the network has {num_channels} channels and there is no {PREPROCESSOR}; give"
                f" --mean and --std with {num_channels} numbers each, or write one with as many"
                " values of image_mean and image_std"
            )
        return cls(1 / 255, IMAGENET_MEAN, IMAGENET_STD, Sources(ASSUMED, ASSUMED, ASSUMED))

    @property
    def assumed(self) -> str:
        """A note that the checkpoint states no normalization."""
        return (
            f"the checkpoint has no {PREPROCESSOR}: ImageNet's normalization is used ({self});"
            " --mean, --std and --rescale name another one"
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
        return f"{unit}, mean {row(self.mean)}, std {row(self.std)}"

    @property
    def is_of_stored_values(self) -> bool:
        """Whether mean and std are those of raw numbers of more than 8 bits."""
        return fault_of(self.rescale, self.mean, self.std) is not None

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
    """What to write into the file that states them."""
    option: str
    """What to give on the command line."""


def fault_of(
    rescale: float, mean: Sequence[float], std: Sequence[float], factor: str = "rescale_factor"
) -> Fault | None:
    """The contradiction between a factor, a mean and a std for each channel; None if there is none.

    factor: its name for messages. Stored values end at 255, or at 65535 if the factor is made for
    that; rescaled by less than a half, no mean and no std can be beyond. Not rescaled, they are not
    from 0 to 1. A mean of 0 and a std of 1 mean that nothing is done.
    """
    train = "write the numbers that the network was trained with"
    both = "give --mean and --std"
    if not 0 < rescale < math.inf:
        return Fault(f"{factor} {rescale:g} must be a positive number", train, "give --rescale")
    if not all(map(math.isfinite, (*mean, *std))):
        return Fault("not all are finite", train, both)
    if min(std) <= 0:
        return Fault("every std must be positive", train, both)
    highest = max(map(abs, (*mean, *std)))
    if rescale < 0.5:
        end = max(1.0, rescale * (UINT8_MAX if rescale > SMALLEST_UINT8_FACTOR else UINT16_MAX))
        if highest > end * (1 + 1e-6):
            return Fault(
                f"rescaled by {rescale:.4g} ({factor}), no value is beyond {end:g}",
                'write "do_rescale": false if they are of values as stored, else multiply both by'
                " the rescale_factor",
                "give --rescale 1 if they are of values as stored, or as --scale makes them, else"
                f" multiply both by {rescale:.4g}",
            )
    elif highest <= 1 and not (set(mean) == {0.0} and set(std) == {1.0}):
        uint8 = f"{1 / 255!r} (for uint8; --scale is for all other types)"
        return Fault(
            "of values from 0 to 1, but values are not rescaled to that"
            f" (do_rescale, {factor} {rescale:g})",
            f'write "do_rescale": true and "rescale_factor": {uint8}',
            f"give --rescale {uint8}, or mean and std of values as stored",
        )
    return None


def row(values: Sequence[float]) -> str:
    """The numbers of all channels, for messages."""
    return " ".join(f"{value:.4g}" for value in values)

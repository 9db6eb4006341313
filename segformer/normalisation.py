"""How stored values become network input: what `preprocessor_config.json` says of it.

Knows transformers' format (models/segformer/image_processing_segformer.py, Apache-2.0); knows no
file system, no pixels and no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from segformer.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per channel (red, green, blue), of values from 0 to 1."""
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
        mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        unit = "values / 255" if self.rescale == 1 / 255 else f"values * {self.rescale:g}"
        return f"{unit}, mean {mean}, std {std}"

    @classmethod
    def from_training(cls, text: str, num_channels: int) -> Self | None:
        """Read mmsegmentation's training configuration, a Python text whose mean and std are in
        stored values. None unless it states exactly one mean and one std for each channel."""
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
            mean_and_std.append(tuple(v / 255 for v in values.pop()))
        mean, std = mean_and_std
        if not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            return None
        return cls(1 / 255, mean, std)

    @classmethod
    def from_json(cls, fields: dict[str, Any], num_channels: int) -> Self:
        """Make one from the parsed `preprocessor_config.json`. Raises CheckpointError."""
        try:
            rescale = float(fields.get("rescale_factor", 1 / 255))
            if not fields.get("do_rescale", True):
                rescale = 1.0
            if fields.get("do_normalize", True):
                mean = _per_channel(fields.get("image_mean", IMAGENET_MEAN), num_channels)
                std = _per_channel(fields.get("image_std", IMAGENET_STD), num_channels)
            else:
                mean, std = (0.0,) * num_channels, (1.0,) * num_channels
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"preprocessor_config.json: {error}") from error
        if len(mean) != num_channels or len(std) != num_channels:
            raise CheckpointError(
                f"preprocessor_config.json: {len(mean)} values of image_mean and {len(std)} of"
                f" image_std for {num_channels} channels; give one per channel"
            )
        if min(std) <= 0 or rescale <= 0:
            raise CheckpointError(
                f"preprocessor_config.json: image_std {list(std)} and rescale_factor {rescale}"
                " must be positive"
            )
        return cls(rescale, mean, std)

    def to_json(self) -> dict[str, Any]:
        """The keys that transformers' SegformerImageProcessor reads."""
        return {
            "image_processor_type": "SegformerImageProcessor",
            "do_resize": False,
            "do_rescale": True,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_reduce_labels": False,
        }


def _per_channel(value: Any, num_channels: int) -> tuple[float, ...]:
    """A value per channel. Like transformers, accepts one number for all channels."""
    if isinstance(value, int | float):
        return (float(value),) * num_channels
    return tuple(float(v) for v in value)


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

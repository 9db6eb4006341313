"""How stored values become network input: what `preprocessor_config.json` says of it.

Knows transformers' format; knows no file system, no pixels and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from segformer.errors import CheckpointError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalisation:
    """Network input = (stored value * rescale - mean) / std, per channel."""

    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def default(cls, num_channels: int) -> Self:
        """ImageNet's, as transformers' SegformerImageProcessor. Only 3 channels have a default."""
        if num_channels != len(IMAGENET_MEAN):
            raise CheckpointError(
                f"the network has {num_channels} channels and there is no preprocessor_config.json;"
                f" write one with image_mean and image_std of {num_channels} values each"
            )
        return cls(1 / 255, IMAGENET_MEAN, IMAGENET_STD)

    @property
    def assumed(self) -> str:
        """The note that nothing else was said."""
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return (
            "the checkpoint has no preprocessor_config.json: ImageNet's normalisation is used"
            f" (values / 255, mean {mean}, std {std})"
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any], num_channels: int) -> Self:
        """From the parsed `preprocessor_config.json`. Raises CheckpointError."""
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
        """What transformers' SegformerImageProcessor reads."""
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
    """transformers takes one number for all channels, too."""
    if isinstance(value, int | float):
        return (float(value),) * num_channels
    return tuple(float(v) for v in value)


def preprocessor_notes(fields: dict[str, Any]) -> tuple[str, ...]:
    """What of `preprocessor_config.json` is not done, one line each."""
    if not fields.get("do_resize", True):
        return ()
    size = fields.get("size", 512)
    if isinstance(size, dict):
        size = " x ".join(str(v) for v in size.values())
    return (
        f"preprocessor_config.json resizes images to {size}; Swath does not:"
        " windows are cut at the resolution of the scene",
    )

"""The six published sizes of SegFormer: Xie et al. 2021 (arXiv 2105.15203), table 6.

Knows numbers; knows no weights and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segformer.config import STAGE_FIELDS, ModelConfig

_WIDE = (64, 128, 320, 512)
MIT: dict[str, dict[str, Any]] = {
    "b0": {"depths": (2, 2, 2, 2), "hidden_sizes": (32, 64, 160, 256), "decoder_hidden_size": 256},
    "b1": {"depths": (2, 2, 2, 2), "hidden_sizes": _WIDE, "decoder_hidden_size": 256},
    "b2": {"depths": (3, 4, 6, 3), "hidden_sizes": _WIDE, "decoder_hidden_size": 768},
    "b3": {"depths": (3, 4, 18, 3), "hidden_sizes": _WIDE, "decoder_hidden_size": 768},
    "b4": {"depths": (3, 8, 27, 3), "hidden_sizes": _WIDE, "decoder_hidden_size": 768},
    "b5": {"depths": (3, 6, 40, 3), "hidden_sizes": _WIDE, "decoder_hidden_size": 768},
}
"""The fields of each size that differ from ModelConfig's defaults."""


def mit_config(
    size: str, num_labels: int, class_names: Sequence[str] | None = None, **changes: Any
) -> ModelConfig:
    """The config of "b0" to "b5", for training from scratch.

    class_names: num_labels of them; by default class_0, class_1, ... changes: other fields of
    ModelConfig. Raises ValueError for an unknown size or another number of names.
    """
    if size not in MIT:
        raise ValueError(f"size {size!r}: choose one of {', '.join(MIT)}")
    names = tuple(class_names or (f"class_{k}" for k in range(num_labels)))
    if len(names) != num_labels:
        raise ValueError(f"{len(names)} class names for {num_labels} labels")
    fields = {**MIT[size], "class_colors": (None,) * num_labels, **changes}
    return ModelConfig(**fields, class_names=names)


def size_name(config: ModelConfig) -> str:
    """b0 to b5, or custom. Channels, classes and the head make no difference."""
    for name, fields in MIT.items():
        published = ModelConfig(**{k: fields[k] for k in ("depths", "hidden_sizes")})
        if all(getattr(config, field) == getattr(published, field) for field in STAGE_FIELDS):
            return name
    return "custom"

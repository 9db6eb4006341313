"""What a checkpoint's `config.json` says: the sizes of the network and its classes.

Knows transformers' format; knows no file system and no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Self

from segformer.errors import CheckpointError

LAYER_NORM_EPS = 1e-5
"""Of every layer norm: transformers builds them all as `nn.LayerNorm(size)` and ignores the
`layer_norm_eps` of its own config (seen in 5.23)."""
BATCH_NORM_EPS = 1e-5
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish")
PROBABILITIES = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "classifier_dropout_prob",
    "drop_path_rate",
)
STAGE_FIELDS = (
    "depths",
    "sr_ratios",
    "hidden_sizes",
    "patch_sizes",
    "strides",
    "num_attention_heads",
    "mlp_ratios",
)
"""One value per stage; mlp_ratios may be fractions, the others are whole."""


@dataclass(frozen=True)
class ModelConfig:
    """A SegFormer for semantic segmentation. Fields are named as in transformers' config.json."""

    num_channels: int = 3
    depths: tuple[int, ...] = (2, 2, 2, 2)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    strides: tuple[int, ...] = (4, 2, 2, 2)
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    decoder_hidden_size: int = 256
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    drop_path_rate: float = 0.1
    initializer_range: float = 0.02
    reshape_last_stage: bool = True
    """Concerns the form of the encoder's last output only; this network is the same with both."""
    class_names: tuple[str, ...] = ("class_0", "class_1")
    """One per channel of the classifier; the index is the class id."""
    class_colors: tuple[str | None, ...] = (None, None)
    """RRGGBB per class, from the optional key `class_colors`, which transformers ignores."""
    notes: tuple[str, ...] = ()
    """What a person should know about this checkpoint, one line each."""

    def __post_init__(self) -> None:
        self._check_stages()
        if self.hidden_act not in ACTIVATIONS:
            raise CheckpointError(
                f"config.json: hidden_act {self.hidden_act!r} is not supported;"
                f" supported are {', '.join(ACTIVATIONS)}"
            )
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) < 1:
                raise CheckpointError(
                    f"config.json: {name} {getattr(self, name)} must lie in 0 <= p < 1"
                )
        if not self.class_names or len(self.class_colors) != len(self.class_names):
            raise CheckpointError(
                f"config.json: {len(self.class_names)} classes but {len(self.class_colors)}"
                " class_colors; give one RRGGBB or null per class"
            )

    def _check_stages(self) -> None:
        for name in STAGE_FIELDS:
            values = getattr(self, name)
            if len(values) != len(self.depths) or not values or min(values) <= 0:
                raise CheckpointError(
                    f"config.json: {name} {list(values)} must be {len(self.depths)} positive"
                    " numbers, one for each stage of depths"
                )
        for size, heads in zip(self.hidden_sizes, self.num_attention_heads, strict=True):
            if size % heads:
                raise CheckpointError(
                    f"config.json: hidden size {size} does not divide into {heads} attention heads"
                )
        if min(self.num_channels, self.decoder_hidden_size) < 1:
            raise CheckpointError(
                "config.json: num_channels and decoder_hidden_size must be at least 1"
            )

    @property
    def num_labels(self) -> int:
        return len(self.class_names)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """From the parsed `config.json`; absent keys take transformers' defaults.

        Raises CheckpointError if it is not a SegFormer for segmentation or does not add up.
        """
        _check_is_segformer(fields)
        known: dict[str, Any] = {}
        try:
            for name in STAGE_FIELDS:
                if name in fields:
                    number = float if name == "mlp_ratios" else int
                    known[name] = tuple(number(value) for value in fields[name])
            for name in ("num_channels", "decoder_hidden_size"):
                if name in fields:
                    known[name] = int(fields[name])
            for name in (*PROBABILITIES, "initializer_range"):
                if name in fields:
                    known[name] = float(fields[name])
            stages = int(fields.get("num_encoder_blocks", len(known.get("depths", cls.depths))))
            names, notes = _class_names(fields)
            colors = _class_colors(fields.get("class_colors"), len(names))
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"config.json: a value is not what it should be: {error}"
            ) from error
        for name in ("hidden_act", "reshape_last_stage"):
            if name in fields:
                known[name] = fields[name]
        depths = known.get("depths", cls.depths)
        if stages != len(depths):
            raise CheckpointError(
                f"config.json: num_encoder_blocks {stages} contradicts depths {list(depths)}"
            )
        return cls(**known, class_names=names, class_colors=colors, notes=notes)

    def to_json(self) -> dict[str, Any]:
        """What transformers' SegformerConfig reads, and `class_colors` if there are any."""
        fields: dict[str, Any] = {
            "architectures": ["SegformerForSemanticSegmentation"],
            "model_type": "segformer",
            "dtype": "float32",
            "num_encoder_blocks": len(self.depths),
        }
        for name in ("num_channels", "hidden_act", "decoder_hidden_size", "initializer_range"):
            fields[name] = getattr(self, name)
        for name in STAGE_FIELDS:
            fields[name] = [int(v) if v == int(v) else v for v in getattr(self, name)]
        for name in (*PROBABILITIES, "reshape_last_stage"):
            fields[name] = getattr(self, name)
        fields["id2label"] = {str(k): name for k, name in enumerate(self.class_names)}
        fields["label2id"] = {name: k for k, name in enumerate(self.class_names)}
        if any(self.class_colors):
            fields["class_colors"] = list(self.class_colors)
        return fields

    def with_notes(self, *notes: str) -> ModelConfig:
        return replace(self, notes=(*self.notes, *notes))

    def gflop_per_window(self, window_px: int) -> float:
        """2 x multiply-accumulates of the folded network on one square window, in GFLOP.

        Counts convolutions, linear layers and the two products of attention, not the norms,
        activations and upsampling (their share is a few per cent, and bound by memory).
        """
        mac = 0
        channels, edge_px = self.num_channels, window_px
        for s, size in enumerate(self.hidden_sizes):
            kernel, ratio = self.patch_sizes[s], self.sr_ratios[s]
            edge_px = (edge_px + 2 * (kernel // 2) - kernel) // self.strides[s] + 1
            tokens, reduced = edge_px**2, (edge_px // ratio) ** 2
            hidden = int(size * self.mlp_ratios[s])
            attention = 2 * tokens * size**2 + 2 * reduced * size**2 + 2 * tokens * reduced * size
            reduction = reduced * ratio**2 * size**2 if ratio > 1 else 0
            mix_ffn = 2 * tokens * size * hidden + tokens * hidden * 9
            mac += tokens * kernel**2 * channels * size
            mac += self.depths[s] * (attention + reduction + mix_ffn)
            mac += tokens * size * self.decoder_hidden_size
            if s == 0:
                mac += tokens * self.decoder_hidden_size * self.num_labels
            channels = size
        return 2 * mac / 1e9


def _check_is_segformer(fields: dict[str, Any]) -> None:
    kind = fields.get("model_type")
    if kind != "segformer":
        raise CheckpointError(
            f"config.json: model_type is {kind!r}, not 'segformer'; Swath runs SegFormer only"
        )
    architectures = fields.get("architectures") or ["SegformerForSemanticSegmentation"]
    if "SegformerForSemanticSegmentation" not in architectures:
        raise CheckpointError(
            f"config.json: architectures {architectures} has no segmentation head;"
            " give a checkpoint of SegformerForSemanticSegmentation"
        )


def _class_names(fields: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names by class id, and a note if some are missing. transformers' default is two classes."""
    names = {int(k): str(name) for k, name in (fields.get("id2label") or {}).items()}
    named = max(len(names), max(names, default=-1) + 1)
    count = int(fields.get("num_labels") or named or 2)
    if count < named or min(names, default=0) < 0:
        raise CheckpointError(
            f"config.json: id2label names class ids {min(names)} to {max(names)},"
            f" but num_labels is {count}"
        )
    missing = [k for k in range(count) if not names.get(k, "").strip()]
    full = tuple(f"class_{k}" if k in missing else names[k] for k in range(count))
    if not missing:
        return full, ()
    return full, (
        f"config.json names {count - len(missing)} of {count} classes; the others are called"
        f" class_{missing[0]}" + (f" to class_{missing[-1]}" if len(missing) > 1 else ""),
    )


def _class_colors(colors: Any, count: int) -> tuple[str | None, ...]:
    if colors is None:
        return (None,) * count
    cleaned = tuple(c if c is None else str(c).removeprefix("#").upper() for c in colors)
    for color in cleaned:
        if color is not None and not re.fullmatch("[0-9A-F]{6}", color):
            raise CheckpointError(
                f"config.json: class_colors has {color!r}; write RRGGBB, e.g. 1F77B4, or null"
            )
    return cleaned

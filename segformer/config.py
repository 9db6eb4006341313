"""What a checkpoint's `config.json` says: the sizes of the network and its classes.

Knows transformers' format (models/segformer/configuration_segformer.py, Apache-2.0); knows no file
system and no torch.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from segformer.classes import BACKGROUND, class_colors, class_names, with_background
from segformer.errors import CheckpointError
from segformer.norm_eps import TRANSFORMERS_EPS, NormEps

BATCH_NORM_EPS = 1e-5
"""What every batch norm adds to the variance: torch's default."""
HEADS = ("mlp", "conv")
MODEL_TYPE, OWN_MODEL_TYPE = "segformer", "swath-segformer"
"""`model_type` in config.json: transformers' network; one with a head that transformers does not
have and would fill with random weights."""
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
    """Bands of the input."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Transformer blocks per stage."""
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    """Edge of the tokens that keys and values see as one, per stage."""
    hidden_sizes: tuple[int, ...] = (32, 64, 160, 256)
    """Channels per stage."""
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    """Kernel edge of the patch embedding, per stage."""
    strides: tuple[int, ...] = (4, 2, 2, 2)
    """Stride of the patch embedding, per stage."""
    num_attention_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 4)
    """Channels within the Mix-FFN / hidden size, per stage."""
    hidden_act: str = "gelu"
    """Activation within the Mix-FFN, one of ACTIVATIONS."""
    decoder_hidden_size: int = 256
    """Channels to which the head projects every scale."""
    norm_eps: NormEps = TRANSFORMERS_EPS
    head: str = "mlp"
    """mlp: the all-MLP head as published (section 3.2). conv: mmsegmentation's, with a batch norm
    and a ReLU on every scale."""
    align_corners: bool = False
    """How logits become those of pixels, as torch names it. True: smp's head, which samples a
    window from its first position to its last."""
    sigmoid: bool = False
    """The classifier has one channel, but there are two classes: class 1 where its logit is above
    0, class 0 elsewhere."""
    # For training only; written to the config of a converted checkpoint.
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    drop_path_rate: float = 0.1
    initializer_range: float = 0.02
    reshape_last_stage: bool = True
    """Concerns the form of the encoder's last output only; this network is the same with both."""
    class_names: tuple[str, ...] = ("class_0", "class_1")
    """One per class of the mask; the index is the class id."""
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
                    f"config.json: {name} {getattr(self, name)} must be in 0 <= p < 1"
                )
        if self.head not in HEADS or not isinstance(self.align_corners, bool):
            raise CheckpointError(
                f"config.json: head {self.head!r} must be one of {', '.join(HEADS)}, and"
                f" align_corners {self.align_corners!r} true or false"
            )
        if len(self.class_names) < 2 or (self.sigmoid and len(self.class_names) != 2):
            raise CheckpointError(
                f"{len(self.class_names)} class{'es' * (len(self.class_names) != 1)}"
                f" {'of' if self.sigmoid else 'without'} a single-logit (sigmoid) head;"
                " that one has 2, every other at least 2"
            )
        if len(self.class_colors) != len(self.class_names):
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
        """Channels of the classifier; the number of classes is len(class_names)."""
        return 1 if self.sigmoid else len(self.class_names)

    @property
    def window_step_px(self) -> int:
        """The number that the edge of a window must be a multiple of: smp refuses all others."""
        return math.prod(self.strides) if self.align_corners else 1

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Make a config from the parsed `config.json`; absent keys take transformers' defaults.

        Raises CheckpointError if it is not a SegFormer for segmentation or contradicts itself.
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
            names, notes = class_names(fields)
            known["sigmoid"] = len(names) == 1
            if known["sigmoid"]:
                names, notes = with_background(
                    str(fields.get("background", BACKGROUND)), names, notes
                )
            colors = class_colors(fields.get("class_colors"), len(names))
            if "norm_eps" in fields:
                known["norm_eps"] = NormEps(**{k: float(v) for k, v in fields["norm_eps"].items()})
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"config.json: a value is not what it should be: {error}"
            ) from error
        for name in ("hidden_act", "reshape_last_stage", "head", "align_corners"):
            if name in fields:
                known[name] = fields[name]
        depths = known.get("depths", cls.depths)
        if stages != len(depths):
            raise CheckpointError(
                f"config.json: num_encoder_blocks {stages} contradicts depths {list(depths)}"
            )
        return cls(**known, class_names=names, class_colors=colors, notes=notes)

    def to_json(self) -> dict[str, Any]:
        """The keys that transformers' SegformerConfig reads, and keys that it ignores and
        `from_json` reads, each only where it says something: `class_colors`, `norm_eps`,
        `align_corners`, `head`, and `background`, the name of class 0 beside a single logit."""
        fields: dict[str, Any] = {
            "architectures": ["SegformerForSemanticSegmentation"],
            "model_type": MODEL_TYPE if self.head == "mlp" else OWN_MODEL_TYPE,
            "dtype": "float32",
            "num_encoder_blocks": len(self.depths),
        }
        for name in ("num_channels", "hidden_act", "decoder_hidden_size", "initializer_range"):
            fields[name] = getattr(self, name)
        for name in STAGE_FIELDS:
            fields[name] = [int(v) if v == int(v) else v for v in getattr(self, name)]
        for name in (*PROBABILITIES, "reshape_last_stage"):
            fields[name] = getattr(self, name)
        labels = self.class_names[1:] if self.sigmoid else self.class_names
        fields["id2label"] = {str(k): name for k, name in enumerate(labels)}
        fields["label2id"] = {name: k for k, name in enumerate(labels)}
        if self.sigmoid and self.class_names[0] != BACKGROUND:
            fields["background"] = self.class_names[0]
        if self.norm_eps != TRANSFORMERS_EPS:
            fields["norm_eps"] = asdict(self.norm_eps)
        for name in ("head", "align_corners"):
            if getattr(self, name) != getattr(type(self), name):
                fields[name] = getattr(self, name)
        if any(self.class_colors):
            fields["class_colors"] = list(self.class_colors)
        return fields

    def with_notes(self, *notes: str) -> ModelConfig:
        """The same config with further notes."""
        return replace(self, notes=(*self.notes, *notes))


def _check_is_segformer(fields: dict[str, Any]) -> None:
    kind = fields.get("model_type")
    if kind not in (MODEL_TYPE, OWN_MODEL_TYPE):
        raise CheckpointError(
            f"config.json: model_type is {kind!r}, not 'segformer'; Swath runs SegFormer only"
        )
    architectures = fields.get("architectures") or ["SegformerForSemanticSegmentation"]
    if "SegformerForSemanticSegmentation" not in architectures:
        raise CheckpointError(
            f"config.json: architectures {architectures} has no segmentation head;"
            " give a checkpoint of SegformerForSemanticSegmentation"
        )

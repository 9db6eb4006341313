"""The names of the weights: ours, and those of the four origins as one table each.

Knows names; knows no shape and no file.

    transformers      models/segformer/modeling_segformer.py (Apache-2.0): old names (its files, and
                      its modules up to 4) and new ones (from 5 on)
    nvlabs            the authors' code; keys and values in one matrix
    smp               segmentation_models_pytorch (MIT); the encoder as nvlabs, the head by names
                      of its own
    mmsegmentation    0.x and 1.x; query, key and value in one matrix; another head
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from segformer.norm_eps import TRANSFORMERS_EPS, NormEps

_OLD, _NEW = "segformer.encoder.block.{s}.{j}", "segformer.stages.{s}.blocks.{j}"
_NEW_SR = f"{_NEW}.attention.sequence_reduction"
_BLOCK = "stages.{s}.blocks.{j}"
_QUERY, _KEY, _VALUE = (f"{_BLOCK}.attention.{name}" for name in ("query", "key", "value"))

Row = tuple[str, str]
"""The origin's name and ours, each without the leaf (weight, bias, ...). {s} counts stages from 0,
{n} from 1; {j} counts blocks. Several names of ours: the origin's weight is these, one below the
other."""

_TRANSFORMERS_OLD: tuple[Row, ...] = (
    ("segformer.encoder.patch_embeddings.{s}.proj", "stages.{s}.embedding.proj"),
    ("segformer.encoder.patch_embeddings.{s}.layer_norm", "stages.{s}.embedding.norm"),
    (f"{_OLD}.layer_norm_1", f"{_BLOCK}.norm1"),
    (f"{_OLD}.attention.self.query", _QUERY),
    (f"{_OLD}.attention.self.key", _KEY),
    (f"{_OLD}.attention.self.value", _VALUE),
    (f"{_OLD}.attention.self.sr", f"{_BLOCK}.attention.reduction"),
    (f"{_OLD}.attention.self.layer_norm", f"{_BLOCK}.attention.reduction_norm"),
    (f"{_OLD}.attention.output.dense", f"{_BLOCK}.attention.out"),
    (f"{_OLD}.layer_norm_2", f"{_BLOCK}.norm2"),
    (f"{_OLD}.mlp.dense1", f"{_BLOCK}.ffn.expand"),
    (f"{_OLD}.mlp.dwconv.dwconv", f"{_BLOCK}.ffn.depthwise"),
    (f"{_OLD}.mlp.dense2", f"{_BLOCK}.ffn.contract"),
    ("segformer.encoder.layer_norm.{s}", "stages.{s}.norm"),
    ("decode_head.linear_c.{s}.proj", "head.linear.{s}"),
    ("decode_head.linear_fuse", "head.fuse"),
    ("decode_head.batch_norm", "head.batch_norm"),
    ("decode_head.classifier", "head.classifier"),
    # Of mmsegmentation's head, in the folders that we write: transformers has no names for it.
    ("decode_head.convs.{s}", "head.convs.{s}"),
    ("decode_head.norms.{s}", "head.norms.{s}"),
)
_TRANSFORMERS_NEW: tuple[Row, ...] = (
    ("segformer.stages.{s}.patch_embeddings.proj", "stages.{s}.embedding.proj"),
    ("segformer.stages.{s}.patch_embeddings.layer_norm", "stages.{s}.embedding.norm"),
    (f"{_NEW}.layernorm_before", f"{_BLOCK}.norm1"),
    (f"{_NEW}.attention.q_proj", _QUERY),
    (f"{_NEW}.attention.k_proj", _KEY),
    (f"{_NEW}.attention.v_proj", _VALUE),
    (f"{_NEW_SR}.sequence_reduction", f"{_BLOCK}.attention.reduction"),
    (f"{_NEW_SR}.layer_norm", f"{_BLOCK}.attention.reduction_norm"),
    (f"{_NEW}.attention.o_proj", f"{_BLOCK}.attention.out"),
    (f"{_NEW}.layernorm_after", f"{_BLOCK}.norm2"),
    (f"{_NEW}.mlp.fc1", f"{_BLOCK}.ffn.expand"),
    (f"{_NEW}.mlp.dwconv.dwconv", f"{_BLOCK}.ffn.depthwise"),
    (f"{_NEW}.mlp.fc2", f"{_BLOCK}.ffn.contract"),
    ("segformer.stages.{s}.layer_norm", "stages.{s}.norm"),
    ("decode_head.linear_projections.{s}.proj", "head.linear.{s}"),
)
_NVLABS_ENCODER: tuple[Row, ...] = (
    ("patch_embed{n}.proj", "stages.{s}.embedding.proj"),
    ("patch_embed{n}.norm", "stages.{s}.embedding.norm"),
    ("block{n}.{j}.norm1", f"{_BLOCK}.norm1"),
    ("block{n}.{j}.attn.q", _QUERY),
    ("block{n}.{j}.attn.kv", f"{_KEY} {_VALUE}"),
    ("block{n}.{j}.attn.sr", f"{_BLOCK}.attention.reduction"),
    ("block{n}.{j}.attn.norm", f"{_BLOCK}.attention.reduction_norm"),
    ("block{n}.{j}.attn.proj", f"{_BLOCK}.attention.out"),
    ("block{n}.{j}.norm2", f"{_BLOCK}.norm2"),
    ("block{n}.{j}.mlp.fc1", f"{_BLOCK}.ffn.expand"),
    ("block{n}.{j}.mlp.dwconv.dwconv", f"{_BLOCK}.ffn.depthwise"),
    ("block{n}.{j}.mlp.fc2", f"{_BLOCK}.ffn.contract"),
    ("norm{n}", "stages.{s}.norm"),
)
_NVLABS: tuple[Row, ...] = (
    *_NVLABS_ENCODER,
    ("linear_c{n}.proj", "head.linear.{s}"),
    ("linear_fuse.conv", "head.fuse"),
    ("linear_fuse.bn", "head.batch_norm"),
    ("linear_pred", "head.classifier"),
)
_SMP: tuple[Row, ...] = (
    *((f"encoder.{original}", names) for original, names in _NVLABS_ENCODER),
    *((f"decoder.mlp_stage.{3 - s}.linear", f"head.linear.{s}") for s in range(4)),
    ("decoder.fuse_stage.0", "head.fuse"),
    ("decoder.fuse_stage.1", "head.batch_norm"),
    ("segmentation_head.0", "head.classifier"),
)
_MMSEGMENTATION: tuple[Row, ...] = (
    ("layers.{s}.0.projection", "stages.{s}.embedding.proj"),
    ("layers.{s}.0.norm", "stages.{s}.embedding.norm"),
    ("layers.{s}.1.{j}.norm1", f"{_BLOCK}.norm1"),
    ("layers.{s}.1.{j}.attn.attn.in_proj_{leaf}", f"{_QUERY} {_KEY} {_VALUE}"),
    ("layers.{s}.1.{j}.attn.sr", f"{_BLOCK}.attention.reduction"),
    ("layers.{s}.1.{j}.attn.norm", f"{_BLOCK}.attention.reduction_norm"),
    ("layers.{s}.1.{j}.attn.attn.out_proj", f"{_BLOCK}.attention.out"),
    ("layers.{s}.1.{j}.norm2", f"{_BLOCK}.norm2"),
    ("layers.{s}.1.{j}.ffn.layers.0", f"{_BLOCK}.ffn.expand"),
    ("layers.{s}.1.{j}.ffn.layers.1", f"{_BLOCK}.ffn.depthwise"),
    ("layers.{s}.1.{j}.ffn.layers.4", f"{_BLOCK}.ffn.contract"),
    ("layers.{s}.2", "stages.{s}.norm"),
    ("convs.{s}.conv", "head.convs.{s}"),
    ("convs.{s}.bn", "head.norms.{s}"),
    ("fusion_conv.conv", "head.fuse"),
    ("fusion_conv.bn", "head.batch_norm"),
    ("conv_seg", "head.classifier"),
)
BACKBONE, HEAD = "backbone.", "decode_head."
"""What NVlabs' and mmsegmentation's networks call their parts."""
LEAVES = "weight|bias|running_mean|running_var|num_batches_tracked"
"""Pattern of the last parts of names."""
UNUSED_COUNT = "num_batches_tracked"
"""The leaf with a batch norm's training steps: not used, and absent from some files."""


@dataclass(frozen=True)
class Layout:
    """How one origin names its weights."""

    origin: str
    """transformers, nvlabs, smp or mmsegmentation."""
    rows: tuple[Row, ...]
    """The names; if two rows match a name, the first counts."""
    anchor: str
    """The first weight of the encoder, by which the origin is recognized."""
    norm_eps: NormEps
    """What the origin's layer norms add to the variance."""
    head: str = "mlp"
    """The origin's head, as in `ModelConfig.head`."""
    align_corners: bool = False
    """As in `ModelConfig.align_corners`."""
    marks: tuple[str, ...] = ("head.classifier.weight",)
    """Our names of weights without which the names are not those of a whole network."""
    prefixes: tuple[str, ...] = ()
    """Prefixes that the names of the encoder and of the head may have."""
    unused: str = r"(?!)"
    """Pattern of names that the network does not use."""

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        prefix = f"(?:{'|'.join(map(re.escape, self.prefixes))})?"
        return tuple(
            (re.compile(prefix + _pattern(original)), names) for original, names in self.rows
        )

    @cached_property
    def _parts(self) -> re.Pattern[str]:
        names = {original.partition(".")[0] for original, _ in self.rows}
        names |= {prefix.removesuffix(".") for prefix in self.prefixes}
        return re.compile("|".join(re.escape(n).replace(r"\{n\}", r"[1-9]\d*") for n in names))

    def has_part(self, original: str) -> bool:
        """Whether a name is in a part of the network: the encoder, the head, or one of theirs if
        these have no names; or is one that the network does not use."""
        first = original.partition(".")[0]
        return bool(self._parts.fullmatch(first) or re.fullmatch(self.unused, original))

    def our_names(self, original: str) -> tuple[str, ...] | None:
        """Our names of the origin's weight; () if it is not used, None if it is unknown."""
        if re.fullmatch(self.unused, original):
            return ()
        for pattern, names in self._patterns:
            if match := pattern.fullmatch(original):
                fields = match.groupdict()
                if "n" in fields:
                    fields["s"] = str(int(fields["n"]) - 1)
                leaf = fields.pop("leaf")
                return tuple(f"{part.format(**fields)}.{leaf}" for part in names.split())
        return None

    def original_name(self, name: str) -> str:
        """The origin's name of the weight that holds one of ours. Raises KeyError if there is
        none."""
        for original, names in self.rows:
            for part in names.split():
                if match := re.fullmatch(_pattern(part), name):
                    fields = match.groupdict()
                    fields["n"] = str(int(fields.get("s", -1)) + 1)
                    return _with_leaf(original).format(**fields)
        raise KeyError(name)


_ANCHORS = (
    "segformer.encoder.patch_embeddings.0.proj.weight",
    "segformer.stages.0.patch_embeddings.proj.weight",
)
TRANSFORMERS = Layout("transformers", _TRANSFORMERS_OLD, _ANCHORS[0], TRANSFORMERS_EPS)
LAYOUTS = (
    TRANSFORMERS,
    Layout("transformers", (*_TRANSFORMERS_NEW, *_TRANSFORMERS_OLD), _ANCHORS[1], TRANSFORMERS_EPS),
    Layout(
        "nvlabs",
        _NVLABS,
        "patch_embed1.proj.weight",
        NormEps(block=1e-6),
        prefixes=(BACKBONE, HEAD),
        unused=rf"(decode_head\.)?conv_seg\.({LEAVES})",
    ),
    Layout(
        "smp",
        _SMP,
        "encoder.patch_embed1.proj.weight",
        NormEps(block=1e-6),
        align_corners=True,
        # Its other decoders, too, have a segmentation_head; fewer scales have no mlp_stage.3.
        marks=("head.classifier.weight", "head.fuse.weight", "head.linear.0.weight"),
    ),
    Layout(
        "mmsegmentation",
        _MMSEGMENTATION,
        "layers.0.0.projection.weight",
        NormEps(1e-6, 1e-6, 1e-6),
        head="conv",
        prefixes=(BACKBONE, HEAD),
        unused=r"auxiliary_head\..*",
    ),
)


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under transformers' old names, which every version of it reads; mmsegmentation's
    head under names of ours."""
    return {TRANSFORMERS.original_name(name): tensor for name, tensor in weights.items()}


def _with_leaf(name: str) -> str:
    return name if "{leaf}" in name else f"{name}.{{leaf}}"


def _pattern(name: str) -> str:
    groups = {"s": r"\d+", "n": r"[1-9]\d*", "j": r"\d+", "leaf": LEAVES}
    pattern = re.escape(_with_leaf(name))
    for group, matches in groups.items():
        pattern = pattern.replace(rf"\{{{group}\}}", f"(?P<{group}>{matches})")
    return pattern

"""The names of the weights: ours, and those of the three origins as one table each.

Knows names and shapes; knows no file. Linear weights are (out, in); the fusion and the classifier
of the head are 1x1 convolutions (out, in, 1, 1), as in transformers.

    transformers      old names (its files, and its modules up to 4) and new ones (from 5 on)
    nvlabs            the authors' code; keys and values in one matrix
    mmsegmentation    0.x and 1.x; query, key and value in one matrix; another head
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from segformer.config import ModelConfig, NormEps

_OLD, _NEW = "segformer.encoder.block.{s}.{j}", "segformer.stages.{s}.blocks.{j}"
_NEW_SR = f"{_NEW}.attention.sequence_reduction"
_BLOCK = "stages.{s}.blocks.{j}"
_QUERY, _KEY, _VALUE = (f"{_BLOCK}.attention.{name}" for name in ("query", "key", "value"))

Row = tuple[str, str]
"""Their name and ours, each without the leaf (weight, bias, ...). {s} counts stages from 0, {n}
from 1; {j} counts blocks. Several of ours: theirs is these, one below the other."""

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
_NVLABS: tuple[Row, ...] = (
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
    ("linear_c{n}.proj", "head.linear.{s}"),
    ("linear_fuse.conv", "head.fuse"),
    ("linear_fuse.bn", "head.batch_norm"),
    ("linear_pred", "head.classifier"),
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
LEAVES = "weight|bias|running_mean|running_var|num_batches_tracked"
UNUSED_COUNT = "num_batches_tracked"
"""A batch norm's training steps: not used, and absent from some files."""


@dataclass(frozen=True)
class Layout:
    """How one origin names its weights."""

    origin: str
    rows: tuple[Row, ...]
    anchor: str
    """The first weight of the encoder: what the origin is recognised by."""
    norm_eps: NormEps
    head: str = "mlp"
    prefixes: tuple[str, ...] = ()
    """What may stand before the names of the encoder and of the head."""
    unused: str = r"(?!)"
    """Pattern of names that mean nothing to the network."""

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        before = f"(?:{'|'.join(map(re.escape, self.prefixes))})?"
        return tuple((re.compile(before + _pattern(theirs)), ours) for theirs, ours in self.rows)

    def ours(self, name: str) -> tuple[str, ...] | None:
        """Our names of one of their weights, () for one that is not used, None if unknown."""
        if re.fullmatch(self.unused, name):
            return ()
        for pattern, ours in self._patterns:
            if match := pattern.fullmatch(name):
                fields = match.groupdict()
                if "n" in fields:
                    fields["s"] = str(int(fields["n"]) - 1)
                leaf = fields.pop("leaf")
                return tuple(f"{part.format(**fields)}.{leaf}" for part in ours.split())
        return None

    def theirs(self, name: str) -> str:
        """Their name of the weight that holds one of ours. Raises KeyError if there is none."""
        for theirs, ours in self.rows:
            for part in ours.split():
                if match := re.fullmatch(_pattern(part), name):
                    fields = match.groupdict()
                    fields["n"] = str(int(fields.get("s", -1)) + 1)
                    return _with_leaf(theirs).format(**fields)
        raise KeyError(name)


_ANCHORS = (
    "segformer.encoder.patch_embeddings.0.proj.weight",
    "segformer.stages.0.patch_embeddings.proj.weight",
)
TRANSFORMERS = Layout("transformers", _TRANSFORMERS_OLD, _ANCHORS[0], NormEps())
LAYOUTS = (
    TRANSFORMERS,
    Layout("transformers", (*_TRANSFORMERS_NEW, *_TRANSFORMERS_OLD), _ANCHORS[1], NormEps()),
    Layout(
        "nvlabs",
        _NVLABS,
        "patch_embed1.proj.weight",
        NormEps(block=1e-6),
        prefixes=("backbone.", "decode_head."),
        unused=rf"(decode_head\.)?conv_seg\.({LEAVES})",
    ),
    Layout(
        "mmsegmentation",
        _MMSEGMENTATION,
        "layers.0.0.projection.weight",
        NormEps(1e-6, 1e-6, 1e-6),
        head="conv",
        prefixes=("backbone.", "decode_head."),
        unused=r"auxiliary_head\..*",
    ),
)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The weights that a network of these sizes has, by our names."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels, size = config.num_channels, config.decoder_hidden_size
    for s, width in enumerate(config.hidden_sizes):
        stage, kernel = f"stages.{s}", config.patch_sizes[s]
        _add(shapes, f"{stage}.embedding.proj", (width, channels, kernel, kernel))
        _add(shapes, f"{stage}.embedding.norm", (width,))
        for j in range(config.depths[s]):
            shapes |= _block_shapes(f"{stage}.blocks.{j}", config, s)
        _add(shapes, f"{stage}.norm", (width,))
        if config.head == "mlp":
            _add(shapes, f"head.linear.{s}", (size, width))
        else:
            shapes[f"head.convs.{s}.weight"] = (size, width)
            _add_batch_norm(shapes, f"head.norms.{s}", size)
        channels = width
    shapes["head.fuse.weight"] = (size, size * len(config.depths), 1, 1)
    _add_batch_norm(shapes, "head.batch_norm", size)
    _add(shapes, "head.classifier", (config.num_labels, size, 1, 1))
    return shapes


def _block_shapes(block: str, config: ModelConfig, s: int) -> dict[str, tuple[int, ...]]:
    width, ratio = config.hidden_sizes[s], config.sr_ratios[s]
    hidden = int(width * config.mlp_ratios[s])
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("query", "key", "value", "out"):
        _add(shapes, f"{block}.attention.{name}", (width, width))
    if ratio > 1:
        _add(shapes, f"{block}.attention.reduction", (width, width, ratio, ratio))
        _add(shapes, f"{block}.attention.reduction_norm", (width,))
    _add(shapes, f"{block}.norm1", (width,))
    _add(shapes, f"{block}.norm2", (width,))
    _add(shapes, f"{block}.ffn.expand", (hidden, width))
    _add(shapes, f"{block}.ffn.depthwise", (hidden, 1, 3, 3))
    _add(shapes, f"{block}.ffn.contract", (width, hidden))
    return shapes


def _add(shapes: dict[str, tuple[int, ...]], name: str, shape: tuple[int, ...]) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]


def _add_batch_norm(shapes: dict[str, tuple[int, ...]], name: str, size: int) -> None:
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        shapes[f"{name}.{leaf}"] = (size,)
    shapes[f"{name}.{UNUSED_COUNT}"] = ()


def to_transformers(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under transformers' old names, which every version of it reads."""
    return {TRANSFORMERS.theirs(name): tensor for name, tensor in ours.items()}


def _with_leaf(name: str) -> str:
    return name if "{leaf}" in name else f"{name}.{{leaf}}"


def _pattern(name: str) -> str:
    groups = {"s": r"\d+", "n": r"[1-9]\d*", "j": r"\d+", "leaf": LEAVES}
    pattern = re.escape(_with_leaf(name))
    for group, matches in groups.items():
        pattern = pattern.replace(rf"\{{{group}\}}", f"(?P<{group}>{matches})")
    return pattern

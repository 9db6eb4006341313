"""Checkpoints as other programs write them: random weights under the names of each origin.

Names and joined matrices are spelled out a second time, from the facts in docs/design.md and from
transformers: nothing is taken from segformer.checkpoints but our own names and transformers'.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from segformer import Checkpoint, ModelConfig, Normalisation, mit_config
from segformer.checkpoints.layouts import to_transformers
from segformer.checkpoints.shapes import weight_shapes

Weights = dict[str, Tensor]
SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 16, 24, 32),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 16,
}
"""The smallest network of the right form."""


def random_checkpoint(config: ModelConfig, seed: int = 1) -> Checkpoint:
    """A checkpoint whose weights preserve the signal's size, with norms far from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, shape in weight_shapes(config).items():
        if not shape:
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape, generator=generator) * 1.5 + 0.5
        elif name.endswith("weight") and len(shape) == 1:
            weights[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) == 1:
            weights[name] = torch.randn(shape, generator=generator) * 0.3
        else:
            fan_in = torch.Size(shape[1:]).numel()
            weights[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
    channels = config.num_channels
    normalisation = Normalisation(1 / 255, (0.5,) * channels, (0.2,) * channels)
    if channels == 3:
        normalisation = Normalisation.default(3)
    return Checkpoint(config, normalisation, weights, "transformers")


def _renamed(weights: Weights, table: list[tuple[str, str]]) -> Weights:
    renamed: Weights = {}
    for name, tensor in weights.items():
        new = name
        for pattern, replacement in table:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    return renamed


def _joined(weights: Weights, names: tuple[str, ...], joined: str) -> Weights:
    """The weights with the attention matrices of `names` stacked into one, in this order."""
    stacked = dict(weights)
    for name in weights:
        if (match := re.fullmatch(rf"(.*\.attention)\.{names[0]}\.(weight|bias)", name)) is None:
            continue
        prefix, leaf = match.groups()
        parts = [stacked.pop(f"{prefix}.{part}.{leaf}") for part in names]
        stacked[f"{prefix}.{joined.replace('LEAF', leaf)}"] = torch.cat(parts)
    return stacked


def _mit_renames(encoder: str) -> list[tuple[str, str]]:
    """The names of the authors' encoder, which smp has taken over. encoder: what precedes them."""
    renames = []
    for s in range(4):
        for ours, theirs in (("embedding", "patch_embed"), ("blocks", "block"), ("norm", "norm")):
            renames.append((rf"stages\.{s}\.{ours}", f"{encoder}{theirs}{s + 1}"))
    return [
        *renames,
        (r"attention\.query", "attn.q"),
        (r"attention\.kv", "attn.kv"),
        (r"attention\.out", "attn.proj"),
        (r"attention\.reduction_norm", "attn.norm"),
        (r"attention\.reduction", "attn.sr"),
        (r"ffn\.expand", "mlp.fc1"),
        (r"ffn\.depthwise", "mlp.dwconv.dwconv"),
        (r"ffn\.contract", "mlp.fc2"),
    ]


def nvlabs(weights: Weights) -> Weights:
    """The weights as the authors' code names them, with the unused `conv_seg` of its base class."""
    renamed = _renamed(
        _joined(weights, ("key", "value"), "kv.LEAF"),
        [
            *_mit_renames("backbone."),
            *((rf"head\.linear\.{s}", f"decode_head.linear_c{s + 1}.proj") for s in range(4)),
            (r"head\.fuse", "decode_head.linear_fuse.conv"),
            (r"head\.batch_norm", "decode_head.linear_fuse.bn"),
            (r"head\.classifier", "decode_head.linear_pred"),
        ],
    )
    classes, size = weights["head.classifier.weight"].shape[:2]
    renamed["decode_head.conv_seg.weight"] = torch.full((classes, size, 1, 1), 3.0)
    renamed["decode_head.conv_seg.bias"] = torch.full((classes,), 3.0)
    return renamed


def smp(weights: Weights) -> Weights:
    """The weights as segmentation_models_pytorch's Segformer names them: its decoder counts scales
    from the coarsest."""
    return _renamed(
        _joined(weights, ("key", "value"), "kv.LEAF"),
        [
            *_mit_renames("encoder."),
            (r"head\.linear\.0", "decoder.mlp_stage.3.linear"),
            (r"head\.linear\.1", "decoder.mlp_stage.2.linear"),
            (r"head\.linear\.2", "decoder.mlp_stage.1.linear"),
            (r"head\.linear\.3", "decoder.mlp_stage.0.linear"),
            (r"head\.fuse", "decoder.fuse_stage.0"),
            (r"head\.batch_norm", "decoder.fuse_stage.1"),
            (r"head\.classifier", "segmentation_head.0"),
        ],
    )


def mmsegmentation(weights: Weights) -> Weights:
    """The weights as mmsegmentation 0.x and 1.x name them: the linear layers of the FFN and of the
    head are 1x1 convolutions."""
    joined = _joined(weights, ("query", "key", "value"), "attn.in_proj_LEAF")
    for name, tensor in joined.items():
        if re.search(r"(ffn\.(expand|contract)|head\.convs\.\d)\.weight", name):
            joined[name] = tensor[:, :, None, None]
    return _renamed(
        joined,
        [
            (r"stages\.(\d)\.embedding\.proj", r"backbone.layers.\1.0.projection"),
            (r"stages\.(\d)\.embedding\.norm", r"backbone.layers.\1.0.norm"),
            (r"stages\.(\d)\.blocks", r"backbone.layers.\1.1"),
            (r"stages\.(\d)\.norm", r"backbone.layers.\1.2"),
            (r"attention\.attn", "attn.attn"),
            (r"attention\.out", "attn.attn.out_proj"),
            (r"attention\.reduction_norm", "attn.norm"),
            (r"attention\.reduction", "attn.sr"),
            (r"ffn\.expand", "ffn.layers.0"),
            (r"ffn\.depthwise", "ffn.layers.1"),
            (r"ffn\.contract", "ffn.layers.4"),
            (r"head\.convs\.(\d)", r"decode_head.convs.\1.conv"),
            (r"head\.norms\.(\d)", r"decode_head.convs.\1.bn"),
            (r"head\.fuse", "decode_head.fusion_conv.conv"),
            (r"head\.batch_norm", "decode_head.fusion_conv.bn"),
            (r"head\.classifier", "decode_head.conv_seg"),
        ],
    )


NAMED: dict[str, Callable[[Weights], Weights]] = {
    "transformers": to_transformers,
    "nvlabs": nvlabs,
    "smp": smp,
    "mmsegmentation": mmsegmentation,
}
"""The weights as each origin names them."""


def small_weights(origin: str, seed: int = 1) -> Weights:
    """Random weights of a small network of three classes, as their origin names them."""
    head = "conv" if origin == "mmsegmentation" else "mlp"
    return NAMED[origin](random_checkpoint(mit_config("b0", 3, **SMALL, head=head), seed).weights)


def under(prefix: str, weights: Weights) -> Weights:
    """The weights with a prefix before every name."""
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}

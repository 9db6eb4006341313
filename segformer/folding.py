"""The weights of a checkpoint as the network runs them: consecutive linear steps become one.

Exact in real numbers, computed in float64, once, when a model is loaded:

- A 1x1 convolution commutes with bilinear upsampling, whose weights sum to one. So the head's
  fusion is cut into one slice per scale, and the slice, the fusion's batch norm and (all-MLP head)
  the projection before it are one matrix, applied at the scale's own resolution.
- A batch norm after a convolution scales its rows and shifts its bias.
- A key's bias adds the same number to all logits of a query, which softmax does not see.
- Attention weights sum to one, so what is linear passes through them: a value's bias moves behind
  the output projection; with one head, the output projection moves before, into the values.

What is folded are the layers of Xie et al. 2021 (arXiv 2105.15203), sections 3.1 and 3.2, as in
modeling_segformer.py of transformers (Apache-2.0). Knows the names of weights, ours and those of
`network.SegFormer`; knows no file and no pixel.

Shape suffix: C channels; matrices are (out, in), two of them equal or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from segformer.checkpoints.checkpoint import Checkpoint
from segformer.checkpoints.shapes import weight_shapes
from segformer.config import BATCH_NORM_EPS, ModelConfig

Weights = Mapping[str, Tensor]
"""By our names, below the part of the network that they belong to."""


def fold(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict of `network.SegFormer`: float32, contiguous, on the CPU."""
    weights = {name: tensor.double() for name, tensor in checkpoint.weights.items()}
    config = checkpoint.config
    attentions = {
        f"stages.{s}.blocks.{j}.attention.": heads
        for s, heads in enumerate(config.num_attention_heads)
        for j in range(config.depths[s])
    }
    folded = {
        name: tensor
        for name, tensor in weights.items()
        if not name.startswith(("head.", *attentions))
    }
    for prefix, heads in attentions.items():
        part = fold_attention(_below(weights, prefix), heads)
        folded.update((prefix + name, tensor) for name, tensor in part.items())
    head = fold_head(_below(weights, "head."), config)
    folded.update((f"head.{name}", tensor) for name, tensor in head.items())
    return {name: tensor.float().contiguous() for name, tensor in folded.items()}


def folded_bytes(config: ModelConfig) -> int:
    """The size in bytes of the weights that `fold` returns, from the config alone.

    (Folding torch's meta tensors would say so, too; their first use takes a second to import.)
    """
    counts = {name: math.prod(shape) for name, shape in weight_shapes(config).items()}
    gone = ("key.", "value.", "out.", "batch_norm.", "norms.", "fuse.", "linear.")
    total = 0
    for name, count in counts.items():
        part = name.partition(".attention.")[2] or name.removeprefix("head.")
        total += 0 if part != name and part.startswith(gone) else count
    for size, heads, depth in zip(
        config.hidden_sizes, config.num_attention_heads, config.depths, strict=True
    ):
        one_head = 2 * size**2 + 2 * size  # key_value with its bias
        total += depth * (one_head if heads == 1 else 3 * size**2 + size)
    width = config.decoder_hidden_size
    total += width  # linear.0.bias
    if config.head == "mlp":
        total += sum(width * size for size in config.hidden_sizes)
    else:
        total += len(config.depths) * (width**2 + width)  # linear.{s}.weight, convs.{s}.bias
    return 4 * total


def fold_attention(weights: Weights, heads: int) -> dict[str, Tensor]:
    """The weights of `network.Attention`: query, key_value (rows: first the keys, then the values),
    the reduction if there is one and, with several heads, out."""
    kept = ("query.", "reduction.", "reduction_norm.")
    folded = {name: tensor for name, tensor in weights.items() if name.startswith(kept)}
    key_CC, value_CC, out_CC = (weights[f"{name}.weight"] for name in ("key", "value", "out"))
    bias_C = out_CC @ weights["value.bias"] + weights["out.bias"]
    if heads == 1:
        folded["key_value.weight"] = torch.cat([key_CC, out_CC @ value_CC])
        folded["key_value.bias"] = torch.cat([torch.zeros_like(bias_C), bias_C])
    else:
        folded["key_value.weight"] = torch.cat([key_CC, value_CC])
        folded |= {"out.weight": out_CC, "out.bias": bias_C}
    return folded


def fold_head(weights: Weights, config: ModelConfig) -> dict[str, Tensor]:
    """The weights of `network.Head`: linear.{s} per scale, classifier, and for the head "conv" the
    convs.{s} before the linear.

    What is constant survives upsampling unchanged, so one bias serves all scales.
    """
    gain_C, bias_C = _batch_norm(weights, "batch_norm")
    scales = range(len(config.depths))
    slices_CC = weights["fuse.weight"].flatten(1).chunk(len(scales), dim=1)
    folded: dict[str, Tensor] = {}
    if config.head == "mlp":
        # As published, the fusion's input runs from the coarsest scale to the finest.
        for s, slice_CC in zip(scales, reversed(slices_CC), strict=True):
            folded[f"linear.{s}.weight"] = gain_C[:, None] * (
                slice_CC @ weights[f"linear.{s}.weight"]
            )
            bias_C = bias_C + gain_C * (slice_CC @ weights[f"linear.{s}.bias"])
    else:
        # A ReLU is between a scale's projection and the fusion: two matrices, not one.
        for s, slice_CC in zip(scales, slices_CC, strict=True):
            scale_gain_C, scale_bias_C = _batch_norm(weights, f"norms.{s}")
            folded[f"convs.{s}.weight"] = scale_gain_C[:, None] * weights[f"convs.{s}.weight"]
            folded[f"convs.{s}.bias"] = scale_bias_C
            folded[f"linear.{s}.weight"] = gain_C[:, None] * slice_CC
    folded["linear.0.bias"] = bias_C
    folded["classifier.weight"] = weights["classifier.weight"].flatten(1)
    folded["classifier.bias"] = weights["classifier.bias"]
    return folded


def _batch_norm(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """gain_C and bias_C that a trained batch norm amounts to."""
    deviation_C = (weights[f"{name}.running_var"] + BATCH_NORM_EPS).sqrt()
    gain_C = weights[f"{name}.weight"] / deviation_C
    return gain_C, weights[f"{name}.bias"] - gain_C * weights[f"{name}.running_mean"]


def _below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights whose names start with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }

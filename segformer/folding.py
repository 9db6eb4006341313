"""The weights of a checkpoint as the network runs them: what is linear in a row is multiplied out.

Exact in real numbers, computed in float64, once, when a model is loaded:

- A 1x1 convolution commutes with bilinear upsampling, whose weights sum to one. So the head's
  fusion is cut into one slice per scale, and the slice, the fusion's batch norm and (all-MLP head)
  the projection before it are one matrix, applied at the scale's own resolution.
- A batch norm after a convolution scales its rows and shifts its bias.
- A key's bias adds the same to all logits of a query, and softmax does not see it.
- Attention weights sum to one, so what is linear passes through them: a value's bias moves behind
  the output projection; with one head, the output projection moves before, into the values.

Knows the names of weights, ours and those of `network.SegFormer`; knows no file and no pixel.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segformer.checkpoints.checkpoint import Checkpoint
from segformer.config import BATCH_NORM_EPS, ModelConfig

Weights = Mapping[str, Tensor]


def fold(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The state dict of `network.SegFormer`: float32, contiguous, on the CPU."""
    config = checkpoint.config
    weights = {name: tensor.double() for name, tensor in checkpoint.weights.items()}
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


def fold_attention(weights: Weights, heads: int) -> dict[str, Tensor]:
    """query, key_value (rows: first the keys, then the values) and, with several heads, out."""
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
    """linear.{s} per scale, classifier, and for the head "conv" the convs.{s} before the linear.

    What is constant survives upsampling unchanged: one bias for all scales.
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
        # A ReLU stands between a scale's projection and the fusion: two matrices, not one.
        for s, slice_CC in zip(scales, slices_CC, strict=True):
            own_gain_C, own_bias_C = _batch_norm(weights, f"norms.{s}")
            folded[f"convs.{s}.weight"] = own_gain_C[:, None] * weights[f"convs.{s}.weight"]
            folded[f"convs.{s}.bias"] = own_bias_C
            folded[f"linear.{s}.weight"] = gain_C[:, None] * slice_CC
    folded["linear.0.bias"] = bias_C
    folded["classifier.weight"] = weights["classifier.weight"].flatten(1)
    folded["classifier.bias"] = weights["classifier.bias"]
    return folded


def _batch_norm(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    """(gain_C, bias_C) of a batch norm that has been trained."""
    deviation_C = (weights[f"{name}.running_var"] + BATCH_NORM_EPS).sqrt()
    gain_C = weights[f"{name}.weight"] / deviation_C
    return gain_C, weights[f"{name}.bias"] - gain_C * weights[f"{name}.running_mean"]


def _below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }

"""The sizes of a network inferred from the shapes of its weights, for files that do not state them.

Knows weights under our names; knows no file. What shapes do not tell is assumed to be as in every
published SegFormer (Xie et al. 2021, arXiv 2105.15203, table 6): strides of 4, 2, 2, 2, attention
heads as wide as the first stage, GELU.
"""

from __future__ import annotations

from typing import Any

from segformer.checkpoints.state_dict import StateDict
from segformer.errors import CheckpointError

FIRST_STRIDE, STRIDE = 4, 2


def infer_sizes(state: StateDict) -> dict[str, Any]:
    """The fields of ModelConfig except the classes. Raises CheckpointError if the shapes do not add
    up."""
    stages = _count(state, "stages.{}.embedding.proj.weight")
    depths, widths, kernels, ratios, mlp_ratios = [], [], [], [], []
    for s in range(stages):
        width, _, kernel, _ = state.shape(f"stages.{s}.embedding.proj.weight", 4)
        block = f"stages.{s}.blocks.0"
        hidden = state.shape(f"{block}.ffn.expand.weight", 2)[0]
        reduction = f"{block}.attention.reduction.weight"
        depths.append(_count(state, f"stages.{s}.blocks.{{}}.norm1.weight"))
        widths.append(width)
        kernels.append(kernel)
        ratios.append(state.shape(reduction, 4)[2] if reduction in state.tensors else 1)
        mlp_ratios.append(hidden // width if hidden % width == 0 else hidden / width)
    if any(width % widths[0] for width in widths):
        raise CheckpointError(
            f"the stages are {widths} wide, no multiples of the first, so the number of attention"
            " heads is not known; give a folder in transformers' format, which states it"
        )
    return {
        "num_channels": state.shape("stages.0.embedding.proj.weight", 4)[1],
        "depths": tuple(depths),
        "hidden_sizes": tuple(widths),
        "patch_sizes": tuple(kernels),
        "strides": (FIRST_STRIDE, *(STRIDE,) * (stages - 1)),
        "sr_ratios": tuple(ratios),
        "num_attention_heads": tuple(width // widths[0] for width in widths),
        "mlp_ratios": tuple(mlp_ratios),
        "decoder_hidden_size": state.shape("head.fuse.weight", 2)[0],
        "head": state.layout.head,
        "align_corners": state.layout.align_corners,
        "norm_eps": state.layout.norm_eps,
    }


def classifier_channels(state: StateDict) -> int:
    """The number of logits per pixel. Raises CheckpointError if there is no classifier."""
    return state.shape("head.classifier.weight", 2)[0]


def _count(state: StateDict, pattern: str) -> int:
    count = 0
    while pattern.format(count) in state.tensors:
        count += 1
    return count

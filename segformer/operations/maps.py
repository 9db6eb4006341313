"""Tokens and feature maps: the same memory, N H W C throughout.

Shape suffixes as in `protocol`. transformers (Apache-2.0) copies between the two, in
`SegformerDepthWiseConv` and others of its modeling_segformer.py.
"""

from __future__ import annotations

from torch import Tensor


def to_map(x_NTC: Tensor, height: int, width: int) -> Tensor:
    """Tokens as a feature map x_NCHW in channels_last memory: a view."""
    return x_NTC.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def to_tokens(x_NCHW: Tensor) -> Tensor:
    """A feature map as tokens x_NTC: a view if the map is channels_last."""
    return x_NCHW.permute(0, 2, 3, 1).flatten(1, 2)

"""The operations of `fused` in torch's own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.operations.maps import to_map, to_tokens

if TYPE_CHECKING:
    from segformer.network import Head, MixFFN
    from segformer.operations.choice import Mixer


def convolve(convolution: nn.Conv2d, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
    return convolution(x_NCHW), None


def norm(x_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm) -> Tensor:
    normed_NTC: Tensor = norm(x_NTC if bias_C is None else x_NTC + bias_C)
    return normed_NTC


def norm_twice(
    x_NTC: Tensor, bias_C: Tensor | None, first: nn.LayerNorm, second: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    x_NTC = norm(x_NTC, bias_C, first)
    return x_NTC, second(x_NTC)


def add_norm(
    x_NTC: Tensor, y_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    x_NTC = x_NTC + (y_NTC if bias_C is None else y_NTC + bias_C)
    return x_NTC, norm(x_NTC)


def mixer(ffn: MixFFN) -> Mixer:
    return Mixed(ffn)


@dataclass(frozen=True)
class Mixed:
    ffn: MixFFN

    def __call__(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NFHW = self.ffn.depthwise(to_map(self.ffn.expand(x_NTC), height, width))
        return to_tokens(self.ffn.activation(x_NFHW))


def decode(head: Head, scales_NHWC: Sequence[Tensor]) -> Tensor:
    sum_NHWC, *coarser_NhwC = (head.project(s, x) for s, x in enumerate(scales_NHWC))
    for x_NhwC in coarser_NhwC:
        y_NCHW = x_NhwC.permute(0, 3, 1, 2)
        y_NCHW = F.interpolate(y_NCHW, sum_NHWC.shape[1:3], mode="bilinear", align_corners=False)
        sum_NHWC += y_NCHW.permute(0, 2, 3, 1)
    return classified(head, sum_NHWC.relu_())


def classified(head: Head, sum_NHWC: Tensor) -> Tensor:
    logits_NKT = torch.baddbmm(
        head.classifier.bias[:, None],
        head.classifier.weight.expand(len(sum_NHWC), -1, -1),
        sum_NHWC.flatten(1, 2).transpose(1, 2),
    )
    return logits_NKT.unflatten(2, sum_NHWC.shape[1:3])

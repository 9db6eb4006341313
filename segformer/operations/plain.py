"""The operations as torch computes them: on every device, in every type.

The definition that `cpu` and `cuda` are tested against, and what they leave to torch. Shape
suffixes as in `protocol`. From Xie et al. 2021 (arXiv 2105.15203), sections 3.1 (Mix-FFN) and 3.2
(decoder), and modeling_segformer.py of transformers (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.operations.maps import to_map, to_tokens
from segformer.operations.protocol import Activation, Decoder, Mixer


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


def gelu_mixer(expand: nn.Linear, depthwise: nn.Conv2d) -> Mixer:
    return PlainMixer(expand, depthwise, F.gelu)


@dataclass(frozen=True)
class PlainMixer:
    """A Mixer with any activation."""

    expand: nn.Linear
    depthwise: nn.Conv2d
    activation: Activation

    def __call__(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NFHW = self.depthwise(to_map(self.expand(x_NTC), height, width))
        return to_tokens(self.activation(x_NFHW))


def decode(decoder: Decoder, scales_NHWC: Sequence[Tensor]) -> Tensor:
    sum_NHWC, *coarser_NhwC = (decoder.project(s, x) for s, x in enumerate(scales_NHWC))
    for x_NhwC in coarser_NhwC:
        y_NCHW = x_NhwC.permute(0, 3, 1, 2)
        y_NCHW = F.interpolate(y_NCHW, sum_NHWC.shape[1:3], mode="bilinear", align_corners=False)
        sum_NHWC += y_NCHW.permute(0, 2, 3, 1)
    return classify(decoder.classifier, sum_NHWC.relu_())


def classify(classifier: nn.Linear, x_NHWC: Tensor) -> Tensor:
    """logits_NKHW, contiguous: the product gives them class by class."""
    logits_NKT = torch.baddbmm(
        classifier.bias[:, None],
        classifier.weight.expand(len(x_NHWC), -1, -1),
        x_NHWC.flatten(1, 2).transpose(1, 2),
    )
    return logits_NKT.unflatten(2, x_NHWC.shape[1:3])

"""The operations of `fused` on a GPU, by Triton: float32, bfloat16 and float16.

Shape suffixes as in `network`; I channels of the finest scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.operations import cuda_decoder as decoder
from segformer.operations import cuda_kernels as kernels
from segformer.operations import plain

if TYPE_CHECKING:
    from segformer.network import Head, MixFFN
    from segformer.operations.choice import Mixer

# What a program has of a tensor, and its warps. Measured on an H100; fixed, for to choose by timing
# would be to choose the bits by timing.
_NORM_VALUES = 2048
_ROWS, _PAIRS, _LANES = 8, 4, 64
_PIXELS, _DECODED_LANES = 64, 64
_SUMMED_PIXELS, _SUMMED_LANES = 16, 128
_MOST_CLASSES, _MOST_INPUTS = 64, 128
"""Of a head that is one kernel: of more, a product of the library's is faster."""
_SCALES = 4


def convolve(convolution: nn.Conv2d, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
    """The bias would be a pass of its own."""
    weight, stride, padding = convolution.weight, convolution.stride, convolution.padding
    return F.conv2d(x_NCHW, weight, None, stride, padding), convolution.bias


def norm(x_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm) -> Tensor:
    return _normed(x_NTC, None, bias_C, (norm, norm), keeps=False)[1]


def norm_twice(
    x_NTC: Tensor, bias_C: Tensor | None, first: nn.LayerNorm, second: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    return _normed(x_NTC, None, bias_C, (first, second), keeps=True)


def add_norm(
    x_NTC: Tensor, y_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    return _normed(x_NTC, y_NTC.contiguous(), bias_C, (norm, norm), keeps=True)


def _normed(
    x_NTC: Tensor,
    y_NTC: Tensor | None,
    bias_C: Tensor | None,
    norms: tuple[nn.LayerNorm, nn.LayerNorm],
    keeps: bool,
) -> tuple[Tensor, Tensor]:
    """What is kept of x before the second norm, and that norm. With two norms that differ x is
    normed twice. Without `keeps` the first is x itself."""
    x_NTC = x_NTC.contiguous()
    channels = x_NTC.shape[2]
    tokens = x_NTC.shape[0] * x_NTC.shape[1]
    first, second = norms
    sum_NTC = x_NTC.new_empty(x_NTC.shape) if keeps else x_NTC
    normed_NTC = x_NTC.new_empty(x_NTC.shape)
    lanes = _power_of_2(channels)
    at_once = max(1, _NORM_VALUES // lanes)
    kernels.add_norm[(-(-tokens // at_once),)](
        *(x_NTC, x_NTC if y_NTC is None else y_NTC, x_NTC if bias_C is None else bias_C),
        *(first.weight, first.bias, second.weight, second.bias, sum_NTC, normed_NTC),
        *(tokens, channels, first.eps, second.eps),
        adds=y_NTC is not None,
        has_bias=bias_C is not None,
        norms_first=first is not second,
        keeps=keeps,
        tokens=at_once,
        lanes=lanes,
    )
    return sum_NTC, normed_NTC


def mixer(ffn: MixFFN) -> Mixer:
    if ffn.activation is not F.gelu:
        return plain.mixer(ffn)
    return ExpandedDepthwise(ffn.expand, ffn.depthwise)


class ExpandedDepthwise:
    """GELU of a 3x3 depthwise convolution, padded with 0, of a linear layer."""

    def __init__(self, linear: nn.Linear, depthwise: nn.Conv2d) -> None:
        self._linear, self._bias_F = linear, depthwise.bias
        self._taps_9F = depthwise.weight[:, 0].flatten(1).T.float().contiguous()

    def __call__(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        """x_NTF."""
        x_NTF = self._linear(x_NTC)
        out_NTF = x_NTF.new_empty(x_NTF.shape)
        images, _, channels = x_NTF.shape
        across, down = -(-width // (2 * _PAIRS)), -(-height // _ROWS)
        kernels.depthwise_gelu[(-(-channels // _LANES) * across * down, images)](
            *(x_NTF, self._taps_9F, self._bias_F, out_NTF, height, width, channels),
            rows=_ROWS,
            pairs=_PAIRS,
            lanes=_LANES,
        )
        return out_NTF


def decode(head: Head, scales_NHWC: Sequence[Tensor]) -> Tensor:
    if len(scales_NHWC) != _SCALES:
        return plain.decode(head, scales_NHWC)
    finest_NHWI = head.first(0, scales_NHWC[0]).contiguous()
    coarser_NhwC = [head.project(s, x).contiguous() for s, x in enumerate(scales_NHWC[1:], 1)]
    fits = head.classifier.out_features <= _MOST_CLASSES and finest_NHWI.shape[3] <= _MOST_INPUTS
    if finest_NHWI.dtype == torch.float32 or not fits:
        return _decode_in_steps(head, finest_NHWI, coarser_NhwC)
    return _decode_at_once(head, finest_NHWI, coarser_NhwC)


def _decode_in_steps(head: Head, finest_NHWI: Tensor, coarser_NhwC: Sequence[Tensor]) -> Tensor:
    first: nn.Linear = head.linear[0]  # type: ignore[assignment]
    finest_NHWC = F.linear(finest_NHWI, first.weight)
    images, height, width, channels = finest_NHWC.shape
    sum_NHWC = finest_NHWC.new_empty(finest_NHWC.shape)
    across, lanes = -(-width // _SUMMED_PIXELS), -(-channels // _SUMMED_LANES)
    decoder.upsampled_sum[(lanes * height * across, images)](
        *(finest_NHWC, *coarser_NhwC, first.bias, sum_NHWC, height, width),
        *(edge for x_NhwC in coarser_NhwC for edge in x_NhwC.shape[1:3]),
        channels,
        pixels=_SUMMED_PIXELS,
        lanes=_SUMMED_LANES,
    )
    return plain.classified(head, sum_NHWC)


def _decode_at_once(head: Head, finest_NHWI: Tensor, coarser_NhwC: Sequence[Tensor]) -> Tensor:
    images, height, width, inputs = finest_NHWI.shape
    classes, channels = head.classifier.weight.shape
    logits_NKHW = finest_NHWI.new_empty(images, classes, height, width)
    first: nn.Linear = head.linear[0]  # type: ignore[assignment]
    decoder.decode[(height * -(-width // _PIXELS), images)](
        *(finest_NHWI, first.weight, *coarser_NhwC, first.bias),
        *(head.classifier.weight, head.classifier.bias, logits_NKHW, height, width),
        *(edge for x_NhwC in coarser_NhwC for edge in x_NhwC.shape[1:3]),
        *(inputs, channels, classes, _PIXELS),
        *(_span(width, x_NhwC.shape[2]) for x_NhwC in coarser_NhwC),
        lanes=_DECODED_LANES,
        input_lanes=max(16, _power_of_2(inputs)),
        class_lanes=max(16, _power_of_2(classes)),
        num_stages=1,
    )
    return logits_NKHW


def _span(size: int, coarser: int) -> int:
    """Between how many positions a program's pixels lie at most, as many as tensor cores want."""
    return max(16, _power_of_2(-(-_PIXELS * coarser // size) + 2))


def _power_of_2(least: int) -> int:
    return 1 << (least - 1).bit_length()

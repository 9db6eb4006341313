"""The operations on a GPU, by Triton kernels: float32, bfloat16 and float16.

Shape suffixes as in `protocol`; I channels of the finest scale before its projection. From Xie et
al. 2021 (arXiv 2105.15203), sections 3.1 (Mix-FFN) and 3.2 (decoder), and modeling_segformer.py of
transformers (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.operations import cuda_decoder_kernels, cuda_kernels, plain
from segformer.operations.protocol import Decoder, Mixer

# What one program of a kernel computes. Measured on an H100 and fixed: choosing by timing would be
# choosing the bits by timing.
_NORM_VALUES = 2048
_ROWS, _PAIRS, _LANES = 8, 4, 64
_PIXELS, _DECODED_LANES = 64, 64
_SUMMED_PIXELS, _SUMMED_LANES = 16, 128
_MOST_CLASSES, _MOST_INPUTS = 64, 128
"""Limits of a head that is one kernel; beyond them the library's matrix product is faster."""
_SCALES = 4
"""The number of scales that the kernels of the head are written for."""


def convolve(convolution: nn.Conv2d, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
    """Leaves the bias to the norm that follows: here it would be a separate pass."""
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
    """z = x + y + bias, or its first norm if the two norms differ; and the second norm of z.

    keeps: whether z is stored; else x is returned in its place.
    """
    x_NTC = x_NTC.contiguous()
    channels = x_NTC.shape[2]
    tokens = x_NTC.shape[0] * x_NTC.shape[1]
    first, second = norms
    sum_NTC = x_NTC.new_empty(x_NTC.shape) if keeps else x_NTC
    normed_NTC = x_NTC.new_empty(x_NTC.shape)
    lanes = _power_of_2(channels)
    tokens_per_program = max(1, _NORM_VALUES // lanes)
    cuda_kernels.add_norm[(-(-tokens // tokens_per_program),)](
        *(x_NTC, x_NTC if y_NTC is None else y_NTC, x_NTC if bias_C is None else bias_C),
        *(first.weight, first.bias, second.weight, second.bias, sum_NTC, normed_NTC),
        *(tokens, channels, first.eps, second.eps),
        adds=y_NTC is not None,
        has_bias=bias_C is not None,
        norms_first=first is not second,
        keeps=keeps,
        tokens=tokens_per_program,
        lanes=lanes,
    )
    return sum_NTC, normed_NTC


def gelu_mixer(expand: nn.Linear, depthwise: nn.Conv2d) -> Mixer:
    return ExpandedDepthwise(expand, depthwise)


class ExpandedDepthwise:
    """A Mixer: GELU of a 3x3 depthwise convolution, padded with 0, of a linear layer."""

    def __init__(self, linear: nn.Linear, depthwise: nn.Conv2d) -> None:
        self._linear, self._bias_F = linear, depthwise.bias
        self._taps_9F = depthwise.weight[:, 0].flatten(1).T.float().contiguous()

    def __call__(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NTF = self._linear(x_NTC)
        out_NTF = x_NTF.new_empty(x_NTF.shape)
        images, _, channels = x_NTF.shape
        across, down = -(-width // (2 * _PAIRS)), -(-height // _ROWS)
        cuda_kernels.depthwise_gelu[(-(-channels // _LANES) * across * down, images)](
            *(x_NTF, self._taps_9F, self._bias_F, out_NTF, height, width, channels),
            rows=_ROWS,
            pairs=_PAIRS,
            lanes=_LANES,
        )
        return out_NTF


def decode(decoder: Decoder, scales_NHWC: Sequence[Tensor]) -> Tensor:
    if len(scales_NHWC) != _SCALES:
        return plain.decode(decoder, scales_NHWC)
    finest_NHWI = decoder.features(0, scales_NHWC[0]).contiguous()
    coarser_NhwC = [decoder.project(s, x).contiguous() for s, x in enumerate(scales_NHWC[1:], 1)]
    classes, inputs = decoder.classifier.out_features, finest_NHWI.shape[3]
    fits = classes <= _MOST_CLASSES and inputs <= _MOST_INPUTS
    if finest_NHWI.dtype == torch.float32 or not fits:
        return _decode_in_steps(decoder, finest_NHWI, coarser_NhwC)
    return _decode_at_once(decoder, finest_NHWI, coarser_NhwC)


def _decode_in_steps(
    decoder: Decoder, finest_NHWI: Tensor, coarser_NhwC: Sequence[Tensor]
) -> Tensor:
    """The library's product, a kernel that adds the coarser scales, the library's product."""
    finest = decoder.projections[0]
    finest_NHWC = F.linear(finest_NHWI, finest.weight)
    images, height, width, channels = finest_NHWC.shape
    sum_NHWC = finest_NHWC.new_empty(finest_NHWC.shape)
    across, lanes = -(-width // _SUMMED_PIXELS), -(-channels // _SUMMED_LANES)
    cuda_decoder_kernels.upsampled_sum[(lanes * height * across, images)](
        *(finest_NHWC, *coarser_NhwC, finest.bias, sum_NHWC, height, width),
        *(edge for x_NhwC in coarser_NhwC for edge in x_NhwC.shape[1:3]),
        channels,
        pixels=_SUMMED_PIXELS,
        lanes=_SUMMED_LANES,
    )
    return plain.classify(decoder.classifier, sum_NHWC)


def _decode_at_once(
    decoder: Decoder, finest_NHWI: Tensor, coarser_NhwC: Sequence[Tensor]
) -> Tensor:
    """All in one kernel."""
    images, height, width, inputs = finest_NHWI.shape
    classes, channels = decoder.classifier.weight.shape
    logits_NKHW = finest_NHWI.new_empty(images, classes, height, width)
    finest = decoder.projections[0]
    cuda_decoder_kernels.decode[(height * -(-width // _PIXELS), images)](
        *(finest_NHWI, finest.weight, *coarser_NhwC, finest.bias),
        *(decoder.classifier.weight, decoder.classifier.bias, logits_NKHW, height, width),
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
    """The most positions of a coarser row that one program's pixels can lie between, rounded up to
    a size that tensor cores take."""
    return max(16, _power_of_2(-(-_PIXELS * coarser // size) + 2))


def _power_of_2(minimum: int) -> int:
    return 1 << (minimum - 1).bit_length()

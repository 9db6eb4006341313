"""The operations on a CPU, in float32 and bfloat16: each one pass over memory.

A bias costs nothing here, while torch first copies it under each product. Operations that gain
nothing from a loop are `plain`'s. Shape suffixes as in `protocol`; G output rows at once. From Xie
et al. 2021 (arXiv 2105.15203), sections 3.1 (Mix-FFN) and 3.2 (decoder), and modeling_segformer.py
of transformers (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.operations import cpu_loops
from segformer.operations.plain import convolve, norm, norm_twice
from segformer.operations.protocol import Decoder, Mixer

__all__ = ["NAMES", "add_norm", "convolve", "decode", "gelu_mixer", "norm", "norm_twice"]

NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""The types that the loops compute, by their names in `cpu_loops`."""
STRIP_BYTES = 4 << 20
"""Size of the strips in which the decoder's sum is computed: the whole would be 50 MB per window
with B2."""


def add_norm(
    x_NTC: Tensor, y_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    x_NTC, y_NTC = x_NTC.contiguous(), y_NTC.contiguous()
    normed_NTC = torch.empty_like(x_NTC)
    images, tokens, channels = x_NTC.shape
    cpu_loops.add_norm[NAMES[x_NTC.dtype]](
        *(images * tokens, channels, x_NTC, y_NTC, normed_NTC),
        *(_zeros(channels) if bias_C is None else _float(bias_C),),
        *(_float(norm.weight), _float(norm.bias), np.array([norm.eps], np.float32)),
    )
    return x_NTC, normed_NTC


def gelu_mixer(expand: nn.Linear, depthwise: nn.Conv2d) -> Mixer:
    return ExpandedDepthwise(expand, depthwise)


def decode(decoder: Decoder, scales_NHWC: Sequence[Tensor]) -> Tensor:
    images, height, width, _ = scales_NHWC[0].shape
    logits_NKHW = scales_NHWC[0].new_empty(images, decoder.classifier.out_features, height, width)
    for logits_KHW, *scales_HWC in zip(logits_NKHW, *scales_NHWC, strict=True):
        _decode_into(logits_KHW, decoder, scales_HWC)
    return logits_NKHW


def _decode_into(logits_KHW: Tensor, decoder: Decoder, scales_HWC: Sequence[Tensor]) -> None:
    """Decode one image, in strips of rows that stay in the cache."""
    finest_HWC, *coarser_hwC = scales_HWC
    height, width, _ = finest_HWC.shape
    upsampled = UpsampledSum(
        (height, width), [decoder.project(s, x) for s, x in enumerate(coarser_hwC, 1)]
    )
    finest = decoder.projections[0]
    weight_KC, bias_K1 = decoder.classifier.weight, decoder.classifier.bias[:, None]
    step = max(1, STRIP_BYTES // (width * weight_KC.shape[1] * finest_HWC.element_size()))
    for row in range(0, height, step):
        sum_GWC = F.linear(decoder.features(0, finest_HWC[row : row + step]), finest.weight)
        upsampled.add_to(sum_GWC, row, finest.bias)
        # The product gives logits class by class, their final order, which is faster, too: 150
        # columns would be no multiple of what a CPU multiplies at once; 150 rows need not be.
        strip_KT, sum_CT = logits_KHW[:, row : row + step].flatten(1), sum_GWC.flatten(0, 1).T
        # (Not addmm: to copy the bias under the product takes half as long as the product.)
        if strip_KT.dtype == torch.float32:
            torch.mm(weight_KC, sum_CT, out=strip_KT).add_(bias_K1)
        else:  # into rows with gaps between them, torch multiplies bfloat16 number by number
            torch.add(weight_KC @ sum_CT, bias_K1, out=strip_KT)


class ExpandedDepthwise:
    """A Mixer: GELU of a 3x3 depthwise convolution, padded with 0, of a linear layer.

    The layer's bias passes through the convolution: it adds one number per channel to the pixels
    inside, and others where the convolution reaches over an edge. biases_16F has a row for each set
    of edges: 8 top + 4 bottom + 2 left + 1 right.
    """

    def __init__(self, linear: nn.Linear, depthwise: nn.Conv2d) -> None:
        assert depthwise.bias is not None
        taps_F33 = depthwise.weight[:, 0].double()
        biases = []
        for edges in range(16):
            top, bottom, left, right = (edges >> n & 1 for n in (3, 2, 1, 0))
            reached_F33 = taps_F33[:, top : 3 - bottom, left : 3 - right]
            passed_F = reached_F33.sum((1, 2)) * linear.bias.double()
            biases.append(depthwise.bias.double() + passed_F)
        self._weight_FC = linear.weight
        self._taps_9F = taps_F33.flatten(1).T.float().contiguous()
        self._biases_16F = torch.stack(biases).float().contiguous()

    def __call__(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NTF = F.linear(x_NTC, self._weight_FC)
        out_NTF = torch.empty_like(x_NTF)
        channels = x_NTF.shape[2]
        cpu_loops.depthwise_gelu[NAMES[x_NTF.dtype]](
            *(len(x_NTF), height, width, channels, x_NTF, out_NTF),
            *(self._taps_9F, self._biases_16F, _zeros(torch.get_num_threads(), channels)),
        )
        return out_NTF


@dataclass(frozen=True)
class Axis:
    """The positions of n rows or columns of a map among those of a coarser one: bilinear,
    align_corners False, as torch computes it."""

    neighbors_n2: np.ndarray
    """int64: the two nearest of the coarser rows or columns."""
    weight_n: np.ndarray
    """float32: the second neighbor's weight; the first one's is what is left of 1."""

    @classmethod
    def of(cls, size: int, coarser: int) -> Axis:
        """size, coarser: rows or columns of the two maps."""
        half = np.float32(0.5)
        at_n = (np.arange(size, dtype=np.float32) + half) * np.float32(coarser / size) - half
        at_n = np.maximum(at_n, np.float32(0))
        first_n = at_n.astype(np.int64)
        second_n = np.minimum(first_n + 1, coarser - 1)
        return cls(np.stack([first_n, second_n], axis=1), at_n - first_n.astype(np.float32))


class UpsampledSum:
    """ReLU of the sum of one image's maps, the coarser ones upsampled to the finest, and a bias."""

    def __init__(self, finest: tuple[int, int], coarser_hwC: Sequence[Tensor]) -> None:
        """finest: height and width of the finest map."""
        self._maps_hwC = [x_hwC.contiguous() for x_hwC in coarser_hwC]
        self._axes = [
            [Axis.of(*sizes) for sizes in zip(finest, x_hwC.shape[:2], strict=True)]
            for x_hwC in self._maps_hwC
        ]

    def add_to(self, sum_GWC: Tensor, first_row: int, bias_C: Tensor) -> None:
        """Complete a strip of rows in place, which holds those rows of the finest map."""
        rows, width, channels = sum_GWC.shape
        floats = channels * (1 + sum(x_hwC.shape[1] for x_hwC in self._maps_hwC))
        map_words: list[int | Tensor | np.ndarray] = []
        for x_hwC, axes in zip(self._maps_hwC, self._axes, strict=True):
            map_words += [x_hwC, x_hwC.shape[1]]
            for axis in axes:
                map_words += [axis.neighbors_n2, axis.weight_n]
        cpu_loops.add_upsampled_relu[NAMES[sum_GWC.dtype]](
            *(rows, first_row, width, channels, sum_GWC, _float(bias_C)),
            *(_zeros(torch.get_num_threads(), floats), floats, len(self._maps_hwC)),
            *map_words,
        )


def _float(x: Tensor) -> Tensor:
    return x.float().contiguous()


def _zeros(*shape: int) -> np.ndarray:
    """float32, whatever torch's default is."""
    return np.zeros(shape, np.float32)

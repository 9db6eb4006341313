"""What lies between the network's matrix products, each in one pass over memory on a CPU.

Every operation stands here twice: in torch's own words, which say what it is and serve all devices
and types, and as a call of a compiled kernel, for float32 and bfloat16 on a CPU. There a bias costs
nothing, while torch copies it under each product first.

Shape suffixes as in `network`; G output rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer import kernels

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def has_kernels(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in _NAMES


def add_norm(
    x_NTC: Tensor, y_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    """x + y + bias, and its layer norm. May write the sum over x."""
    if not has_kernels(x_NTC):
        x_NTC = x_NTC + (y_NTC if bias_C is None else y_NTC + bias_C)
        return x_NTC, norm(x_NTC)
    x_NTC, y_NTC = x_NTC.contiguous(), y_NTC.contiguous()
    normed_NTC = torch.empty_like(x_NTC)
    images, tokens, channels = x_NTC.shape
    kernels.add_norm[_NAMES[x_NTC.dtype]](
        *(images * tokens, channels, x_NTC, y_NTC, normed_NTC),
        *(_zeros(channels) if bias_C is None else _float(bias_C),),
        *(_float(norm.weight), _float(norm.bias), np.array([norm.eps], np.float32)),
    )
    return x_NTC, normed_NTC


class ExpandedDepthwise:
    """GELU of a 3x3 depthwise convolution, padded with 0, of a linear layer.

    The layer's bias passes through the convolution: it is one number per channel for pixels inside,
    and others where the convolution reaches over an edge.
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
        """x_NTF."""
        x_NTF = F.linear(x_NTC, self._weight_FC)
        out_NTF = torch.empty_like(x_NTF)
        channels = x_NTF.shape[2]
        kernels.depthwise_gelu[_NAMES[x_NTF.dtype]](
            *(len(x_NTF), height, width, channels, x_NTF, out_NTF),
            *(self._taps_9F, self._biases_16F, _zeros(torch.get_num_threads(), channels)),
        )
        return out_NTF


@dataclass(frozen=True)
class Axis:
    """How rows or columns of a map lie between those of a coarser one: bilinear, align_corners
    False, as torch computes it."""

    neighbours_N2: np.ndarray
    """int64."""
    weight_N: np.ndarray
    """float32: of the second neighbour."""

    @classmethod
    def of(cls, size: int, coarser: int) -> Axis:
        half = np.float32(0.5)
        place_N = (np.arange(size, dtype=np.float32) + half) * np.float32(coarser / size) - half
        place_N = np.maximum(place_N, np.float32(0))
        first_N = place_N.astype(np.int64)
        second_N = np.minimum(first_N + 1, coarser - 1)
        return cls(np.stack([first_N, second_N], axis=1), place_N - first_N.astype(np.float32))


class UpsampledSum:
    """ReLU of the sum of one image's maps, the coarser ones upsampled to the finest, and a bias."""

    def __init__(self, finest: tuple[int, int], coarser_hwC: Sequence[Tensor]) -> None:
        self._maps_hwC = [x_hwC.contiguous() for x_hwC in coarser_hwC]
        self._axes = [
            [Axis.of(size, own) for size, own in zip(finest, x_hwC.shape[:2], strict=True)]
            for x_hwC in self._maps_hwC
        ]

    def add_to(self, sum_GWC: Tensor, first_row: int, bias_C: Tensor) -> None:
        """Completes some rows in place, which hold the finest map's own."""
        rows, width, channels = sum_GWC.shape
        floats = channels * (1 + sum(x_hwC.shape[1] for x_hwC in self._maps_hwC))
        fields: list[int | Tensor | np.ndarray] = []
        for x_hwC, axes in zip(self._maps_hwC, self._axes, strict=True):
            fields += [x_hwC, x_hwC.shape[1]]
            for axis in axes:
                fields += [axis.neighbours_N2, axis.weight_N]
        kernels.add_upsampled_relu[_NAMES[sum_GWC.dtype]](
            *(rows, first_row, width, channels, sum_GWC, _float(bias_C)),
            *(_zeros(torch.get_num_threads(), floats), floats, len(self._maps_hwC)),
            *fields,
        )


def _float(x: Tensor) -> Tensor:
    return x.float().contiguous()


def _zeros(*shape: int) -> np.ndarray:
    """float32, whatever torch's default is."""
    return np.zeros(shape, np.float32)

"""What lies between the network's matrix products: by which implementation.

Each operation stands three times: in torch's own words (`fused_torch`), which say what it is and
serve all devices and types, as loops for CPUs (`fused_cpu`), and as Triton kernels for GPUs
(`fused_cuda`). The latter take one pass over memory for what torch does in several.

Shape suffixes as in `network`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from segformer.operations import cpu, plain

if TYPE_CHECKING:
    from segformer.network import Head, MixFFN

Mixer = Callable[[Tensor, int, int], Tensor]
"""Tokens x_NTC, height and width to x_NTF."""


class Operations(Protocol):
    """What a module that implements them offers."""

    def convolve(self, convolution: nn.Conv2d, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """y_NCHW, and the bias_C if that is still to be added."""

    def norm(self, x_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm) -> Tensor:
        """The layer norm of x + bias."""

    def norm_twice(
        self, x_NTC: Tensor, bias_C: Tensor | None, first: nn.LayerNorm, second: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """The first layer norm of x + bias, and the second one of that."""

    def add_norm(
        self, x_NTC: Tensor, y_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """x + y + bias, and its layer norm. May write the sum over x."""

    def mixer(self, ffn: MixFFN) -> Mixer:
        """The linear layer, the 3x3 depthwise convolution, padded with 0, and the activation. Keeps
        what it has made of the weights."""

    def decode(self, head: Head, scales_NHWC: Sequence[Tensor]) -> Tensor:
        """logits_NKHW at the finest scale, class by class in memory."""


def operations(x: Tensor) -> Operations:
    """For tensors on this device, of this type."""
    if x.device.type == "cpu" and x.dtype in cpu.NAMES:
        return cpu
    if x.device.type == "cuda" and x.dtype != torch.float64:
        return _on_a_gpu()
    return plain


@functools.cache
def _on_a_gpu() -> Operations:
    try:
        from segformer.operations import cuda  # noqa: PLC0415  who has no GPU need not load Triton
    except ImportError:  # torch brings it along on Linux only
        return plain
    return cuda

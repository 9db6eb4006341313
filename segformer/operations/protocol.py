"""What the network asks of its operations: the contract that `plain`, `cpu` and `cuda` fulfill.

Knows layers and tensors; knows no implementation. Imports nothing of ours, so that the network can
be built on the operations and not they on it.

Shape suffixes, here and in the other files of this folder, are those of `segformer.network`:
    N images    C channels    H W height and width    h w those of a coarser scale
    T = H * W tokens    F channels of the Mix-FFN    K classes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
"""An elementwise function of a tensor of any shape."""

Mixer = Callable[[Tensor, int, int], Tensor]
"""The inner part of a Mix-FFN: tokens x_NTC, height and width to x_NTF."""


@dataclass(frozen=True)
class Decoder:
    """The layers of a decode head as folding leaves them, one per scale, the finest first."""

    convs: Sequence[nn.Linear]
    """mmsegmentation's head only: the layers before the projections, a ReLU after each. Empty for
    the all-MLP head."""
    projections: Sequence[nn.Linear]
    """From each scale to the decoder's width. The finest one's bias is that of the whole sum; the
    others have none."""
    classifier: nn.Linear
    """From the decoder's width to K logits."""

    def features(self, scale: int, x_NHWC: Tensor) -> Tensor:
        """What the scale's projection is applied to."""
        return self.convs[scale](x_NHWC).relu_() if self.convs else x_NHWC

    def project(self, scale: int, x_NHWC: Tensor) -> Tensor:
        """A scale projected at its own resolution."""
        projected_NHWC: Tensor = self.projections[scale](self.features(scale, x_NHWC))
        return projected_NHWC


class Operations(Protocol):
    """What a module that implements the operations offers."""

    def convolve(self, convolution: nn.Conv2d, x_NCHW: Tensor) -> tuple[Tensor, Tensor | None]:
        """y_NCHW, and the bias_C if it is still to be added."""

    def norm(self, x_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm) -> Tensor:
        """norm(x + bias)."""

    def norm_twice(
        self, x_NTC: Tensor, bias_C: Tensor | None, first: nn.LayerNorm, second: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """y = first(x + bias), and second(y)."""

    def add_norm(
        self, x_NTC: Tensor, y_NTC: Tensor, bias_C: Tensor | None, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """z = x + y + bias, and norm(z). May write z over x."""

    def gelu_mixer(self, expand: nn.Linear, depthwise: nn.Conv2d) -> Mixer:
        """GELU of the 3x3 depthwise convolution, padded with 0, of the linear layer.

        Keeps what it derives from the weights, which must not change afterward.
        """

    def decode(self, decoder: Decoder, scales_NHWC: Sequence[Tensor]) -> Tensor:
        """logits_NKHW at the finest scale, contiguous: one class after the other in memory.

        Projects every scale at its own resolution, upsamples the coarser ones (bilinear,
        align_corners False), sums, applies ReLU and classifies. Scales run from the finest to the
        coarsest.
        """

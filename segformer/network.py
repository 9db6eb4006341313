"""The SegFormer network as it is run: Mix Transformer encoder and head, for inference only.

Written from Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation
with Transformers" (arXiv 2105.15203), and from the Apache-2.0 implementation in transformers, whose
results it reproduces from less than half of the arithmetic: see `folding`. Knows tensors and a
Checkpoint; knows no window and no image.

Shape suffixes:
    N images    C channels    H, W height and width at the stage    T = H * W tokens
    S tokens after spatial reduction    A attention heads    D channels per head
    F channels of the Mix-FFN    K classes    h w the map of a coarser scale

Tokens lie in memory as N H W C throughout, so that a feature map is a view of its tokens
(channels_last) and nothing is transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.checkpoints.checkpoint import Checkpoint, read_checkpoint
from segformer.config import ModelConfig
from segformer.folding import fold
from segformer.operations.choice import Mixer, operations
from segformer.operations.maps import to_map, to_tokens

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


class PatchEmbedding(nn.Module):
    """Overlapping patch embedding: a strided convolution and a layer norm (section 3.1)."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        channels = config.num_channels if stage == 0 else config.hidden_sizes[stage - 1]
        size, kernel = config.hidden_sizes[stage], config.patch_sizes[stage]
        self.proj = nn.Conv2d(channels, size, kernel, config.strides[stage], padding=kernel // 2)
        self.norm = nn.LayerNorm(size, eps=config.norm_eps.embedding)

    def forward(
        self, x_NCHW: Tensor, following: nn.LayerNorm
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """x_NTC, the norm that follows it, and the map's height and width."""
        fused = operations(x_NCHW)
        y_NCHW, bias_C = fused.convolve(self.proj, x_NCHW)
        normed = fused.norm_twice(to_tokens(y_NCHW), bias_C, self.norm, following)
        return *normed, (y_NCHW.shape[2], y_NCHW.shape[3])


class Attention(nn.Module):
    """Efficient self-attention: keys and values from spatially reduced tokens (section 3.1)."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size = config.hidden_sizes[stage]
        self.heads = config.num_attention_heads[stage]
        self.ratio = config.sr_ratios[stage]
        self.query = nn.Linear(size, size)
        # With one head the values carry the output projection, and its bias.
        self.key_value = nn.Linear(size, 2 * size, bias=self.heads == 1)
        self.out = nn.Linear(size, size) if self.heads > 1 else None
        if self.ratio > 1:
            self.reduction = nn.Conv2d(size, size, self.ratio, self.ratio)
            self.reduction_norm = nn.LayerNorm(size, eps=config.norm_eps.reduction)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        """Without the bias of `out`, which comes with the residual."""
        x_NSC = x_NTC
        if self.ratio > 1:
            fused = operations(x_NTC)
            y_NCHW, bias_C = fused.convolve(self.reduction, to_map(x_NTC, height, width))
            x_NSC = fused.norm(to_tokens(y_NCHW), bias_C, self.reduction_norm)
        key_NSC, value_NSC = self.key_value(x_NSC).chunk(2, dim=2)
        y_NATD = F.scaled_dot_product_attention(
            self._split(self.query(x_NTC)), self._split(key_NSC), self._split(value_NSC)
        )
        y_NTC = y_NATD.transpose(1, 2).flatten(2)
        return y_NTC if self.out is None else F.linear(y_NTC, self.out.weight)

    def _split(self, x_NTC: Tensor) -> Tensor:
        """x_NATD, a view."""
        return x_NTC.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """Linear, 3x3 depthwise convolution, activation, linear (section 3.1): no position codes."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size = config.hidden_sizes[stage]
        hidden = int(size * config.mlp_ratios[stage])
        self.expand = nn.Linear(size, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = ACTIVATION_FUNCTIONS[config.hidden_act]
        self.contract = nn.Linear(hidden, size)
        self._mixer: Mixer | None = None

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        """Without the bias of `contract`, which comes with the residual."""
        if self._mixer is None:
            self._mixer = operations(x_NTC).mixer(self)
        return F.linear(self._mixer(x_NTC, height, width), self.contract.weight)

    def _apply(self, *arguments: Any, **named: Any) -> Any:
        """Weights move to another device or type: what was made of them has to be made anew."""
        self._mixer = None
        return super()._apply(*arguments, **named)


class Block(nn.Module):
    """Pre-norm transformer block: attention and Mix-FFN, each with a residual."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size, eps = config.hidden_sizes[stage], config.norm_eps.block
        self.norm1 = nn.LayerNorm(size, eps=eps)
        self.attention = Attention(config, stage)
        self.norm2 = nn.LayerNorm(size, eps=eps)
        self.ffn = MixFFN(config, stage)

    def forward(
        self, x_NTC: Tensor, normed_NTC: Tensor, size: tuple[int, int], following: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """x and its norm1 in; the block's result and the norm that follows it out."""
        y_NTC, out = self.attention(normed_NTC, *size), self.attention.out
        bias_C = None if out is None else out.bias
        fused = operations(x_NTC)
        x_NTC, normed_NTC = fused.add_norm(x_NTC, y_NTC, bias_C, self.norm2)
        y_NTC = self.ffn(normed_NTC, *size)
        return fused.add_norm(x_NTC, y_NTC, self.ffn.contract.bias, following)


class Stage(nn.Module):
    """One scale of the encoder: x_NCHW in, x_NCHW at 1 / stride of its size out."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config, stage)
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))
        self.norm = nn.LayerNorm(config.hidden_sizes[stage], eps=config.norm_eps.block)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        norms: list[Any] = [*(block.norm1 for block in self.blocks), self.norm]
        x_NTC, normed_NTC, size = self.embedding(x_NCHW, norms[0])
        for block, following in zip(self.blocks, norms[1:], strict=True):
            x_NTC, normed_NTC = block(x_NTC, normed_NTC, size, following)
        return to_map(normed_NTC, *size)


class Head(nn.Module):
    """Project every scale at its own resolution, upsample, sum, ReLU, classify (section 3.2).

    Of the head "conv", mmsegmentation's, the projection has a ReLU inside.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        inputs = config.hidden_sizes
        if config.head == "conv":
            self.convs = nn.ModuleList(nn.Linear(channels, size) for channels in inputs)
            inputs = (size,) * len(inputs)
        self.projects_twice = config.head == "conv"
        self.linear = nn.ModuleList(
            nn.Linear(channels, size, bias=s == 0) for s, channels in enumerate(inputs)
        )
        self.classifier = nn.Linear(size, config.num_labels)

    def forward(self, scales_NCHW: list[Tensor]) -> Tensor:
        """logits_NKHW at the finest scale, class by class in memory, as blends want them."""
        scales_NHWC = [x_NCHW.permute(0, 2, 3, 1) for x_NCHW in scales_NCHW]
        return operations(scales_NHWC[0]).decode(self, scales_NHWC)

    def project(self, scale: int, x_NHWC: Tensor) -> Tensor:
        """A scale at its own resolution; the finest with the bias of all."""
        projected_NHWC: Tensor = self.linear[scale](self.first(scale, x_NHWC))
        return projected_NHWC

    def first(self, scale: int, x_NHWC: Tensor) -> Tensor:
        """What `linear` projects."""
        return self.convs[scale](x_NHWC).relu_() if self.projects_twice else x_NHWC


class SegFormer(nn.Module):
    """MiT encoder and head, in eval mode and without gradients.

    `config` has the classes, `normalisation` the input's scale. `model.to(device, dtype)` as usual.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """float32, on the CPU. Draws no random numbers.

        The weights are not to change any more: what was made of them is kept.
        """
        super().__init__()
        self.config = config = checkpoint.config
        self.normalisation = checkpoint.normalisation
        with torch.device("meta"):  # No memory: the weights are put in place.
            self.stages = nn.ModuleList(Stage(config, s) for s in range(len(config.depths)))
            self.head = Head(config)
        self.load_state_dict(fold(checkpoint), assign=True)
        # As tokens lie: else each call would copy the kernels into that order.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """logits_NKHW (float32 for float32) at a quarter of the resolution, rounded up.

        pixels_NCHW: float32, normalised (see `normalisation`), at least 32 x 32. At one thread a
        window's logits depend on its own pixels and on the shape of the batch alone, bit for bit.
        """
        x_NCHW = pixels_NCHW.contiguous(memory_format=torch.channels_last)
        scales_NCHW = []
        with torch.cuda.device_of(x_NCHW):  # Triton launches on the current device
            for stage in self.stages:
                x_NCHW = stage(x_NCHW)
                scales_NCHW.append(x_NCHW)
            logits_NKHW: Tensor = self.head(scales_NCHW)
        return logits_NKHW


def load_model(path_or_url: str, *, storage_options: Mapping[str, Any] | None = None) -> SegFormer:
    """The model of a checkpoint, in eval mode, float32, on the CPU.

    storage_options: handed to fsspec. Raises CheckpointError, one line, if anything is missing or
    does not fit.
    """
    return SegFormer(read_checkpoint(path_or_url, storage_options=storage_options))

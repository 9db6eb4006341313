"""The SegFormer network as it is run: Mix Transformer encoder and head, for inference only.

Written from Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation
with Transformers" (arXiv 2105.15203), and from the Apache-2.0 implementation in transformers
(models/segformer/modeling_segformer.py), whose results it reproduces from less than half of the
arithmetic: see `folding`. Knows tensors and a Checkpoint; knows no window and no image.

Shape suffixes:
    N images    C channels    H W height and width at the stage    T = H * W tokens
    S tokens after spatial reduction    A attention heads    D = C / A channels per head
    F channels of the Mix-FFN    K classes    h w height and width of a coarser scale

Tokens are in memory as N H W C throughout, so that a feature map is a view of its tokens
(channels_last) and nothing is transposed.

What lies between two matrix products is one pass over memory (`operations`). So a convolution may
leave its bias, and a layer its residual bias, to the norm or the sum that follows; and a norm is
computed with the sum before it. This is why the layers hand each other two tensors: the residual
stream x, and its norm, which the next layer starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.checkpoints.checkpoint import Checkpoint, read_checkpoint
from segformer.config import ModelConfig
from segformer.folding import fold
from segformer.normalisation_options import CHECKPOINTS_OWN, NormalisationOptions
from segformer.operations import plain
from segformer.operations.choice import operations
from segformer.operations.maps import to_map, to_tokens
from segformer.operations.protocol import Activation, Decoder, Mixer

ACTIVATION_FUNCTIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}
"""By their names in config.json."""


class PatchEmbedding(nn.Module):
    """Overlapping patch embedding: a strided convolution and a layer norm (section 3.1)."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        channels = config.num_channels if stage == 0 else config.hidden_sizes[stage - 1]
        size, kernel = config.hidden_sizes[stage], config.patch_sizes[stage]
        self.proj = nn.Conv2d(channels, size, kernel, config.strides[stage], padding=kernel // 2)
        self.norm = nn.LayerNorm(size, eps=config.norm_eps.embedding)

    def forward(
        self, x_NCHW: Tensor, next_norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The patches x_NTC, next_norm(x), and their map's height and width."""
        fused = operations(x_NCHW)
        y_NCHW, bias_C = fused.convolve(self.proj, x_NCHW)  # H, W from here on: 1 / stride
        x_NTC, normed_NTC = fused.norm_twice(to_tokens(y_NCHW), bias_C, self.norm, next_norm)
        return x_NTC, normed_NTC, (y_NCHW.shape[2], y_NCHW.shape[3])


class Attention(nn.Module):
    """Efficient self-attention: keys and values from spatially reduced tokens (section 3.1)."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size = config.hidden_sizes[stage]
        self.heads = config.num_attention_heads[stage]
        self.ratio = config.sr_ratios[stage]
        self.query = nn.Linear(size, size)
        # With one head the values carry the output projection, and its bias (see `folding`).
        self.key_value = nn.Linear(size, 2 * size, bias=self.heads == 1)
        self.out = nn.Linear(size, size) if self.heads > 1 else None
        if self.ratio > 1:
            self.reduction = nn.Conv2d(size, size, self.ratio, self.ratio)
            self.reduction_norm = nn.LayerNorm(size, eps=config.norm_eps.reduction)

    @property
    def residual_bias(self) -> Tensor | None:
        """The bias_C that `forward` leaves to the sum with the residual."""
        return None if self.out is None else self.out.bias

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        """y_NTC without `residual_bias`."""
        x_NSC = self._reduce(x_NTC, height, width) if self.ratio > 1 else x_NTC
        key_NSC, value_NSC = self.key_value(x_NSC).chunk(2, dim=2)
        y_NATD = F.scaled_dot_product_attention(
            self._split(self.query(x_NTC)),  # NATD
            self._split(key_NSC),  # NASD
            self._split(value_NSC),  # NASD
        )
        y_NTC = y_NATD.transpose(1, 2).flatten(2)
        return y_NTC if self.out is None else F.linear(y_NTC, self.out.weight)

    def _reduce(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        """x_NSC: one token per `ratio` x `ratio` tokens, S = T / ratio^2."""
        fused = operations(x_NTC)
        y_NCHW, bias_C = fused.convolve(self.reduction, to_map(x_NTC, height, width))
        return fused.norm(to_tokens(y_NCHW), bias_C, self.reduction_norm)

    def _split(self, x_NTC: Tensor) -> Tensor:
        """x_NATD, a view."""
        return x_NTC.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """Linear, 3x3 depthwise convolution, activation, linear (section 3.1).

    There are no position codes: the zero padding of the convolution tells where a token is.
    """

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size = config.hidden_sizes[stage]
        hidden = int(size * config.mlp_ratios[stage])
        self.expand = nn.Linear(size, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = ACTIVATION_FUNCTIONS[config.hidden_act]
        self.contract = nn.Linear(hidden, size)
        self._mixer: Mixer | None = None

    @property
    def residual_bias(self) -> Tensor:
        """The bias_C that `forward` leaves to the sum with the residual."""
        return self.contract.bias

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        """y_NTC without `residual_bias`."""
        if self._mixer is None:
            self._mixer = self._make_mixer(x_NTC)
        x_NTF = self._mixer(x_NTC, height, width)
        return F.linear(x_NTF, self.contract.weight)  # NTC

    def _make_mixer(self, x_NTC: Tensor) -> Mixer:
        """Expansion, convolution and activation at once. Only GELU, which all published networks
        have, comes fused."""
        if self.activation is F.gelu:
            return operations(x_NTC).gelu_mixer(self.expand, self.depthwise)
        return plain.PlainMixer(self.expand, self.depthwise, self.activation)

    def _apply(self, *arguments: Any, **named: Any) -> Any:
        """Moves the weights to another device or type, where the mixer has to be made again."""
        self._mixer = None
        return super()._apply(*arguments, **named)


class Block(nn.Module):
    """Pre-norm transformer block: attention and Mix-FFN, each with a residual (section 3.1)."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size, eps = config.hidden_sizes[stage], config.norm_eps.block
        self.norm1 = nn.LayerNorm(size, eps=eps)
        self.attention = Attention(config, stage)
        self.norm2 = nn.LayerNorm(size, eps=eps)
        self.ffn = MixFFN(config, stage)

    def forward(
        self, x_NTC: Tensor, normed_NTC: Tensor, size: tuple[int, int], next_norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """x and norm1(x) in; the block's x and next_norm(x) out. size: the map's height and width.

        Each residual sum is computed together with the norm that follows it, so the block's own
        norm1 is already applied to what it gets, and it applies the next block's.
        """
        fused = operations(x_NTC)
        # x = x + attention(norm1(x)), and norm2(x)
        y_NTC = self.attention(normed_NTC, *size)
        x_NTC, normed_NTC = fused.add_norm(x_NTC, y_NTC, self.attention.residual_bias, self.norm2)
        # x = x + ffn(norm2(x)), and next_norm(x)
        y_NTC = self.ffn(normed_NTC, *size)
        return fused.add_norm(x_NTC, y_NTC, self.ffn.residual_bias, next_norm)


class Stage(nn.Module):
    """One scale of the encoder: x_NCHW in, x_NCHW at 1 / stride of its height and width out."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config, stage)
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))
        self.norm = nn.LayerNorm(config.hidden_sizes[stage], eps=config.norm_eps.block)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        # The norm after the embedding and after each block: the next block's, at last the stage's.
        first_norm, *next_norms = [*(block.norm1 for block in self.blocks), self.norm]
        x_NTC, normed_NTC, size = self.embedding(x_NCHW, first_norm)
        for block, next_norm in zip(self.blocks, next_norms, strict=True):
            x_NTC, normed_NTC = block(x_NTC, normed_NTC, size, next_norm)
        return to_map(normed_NTC, *size)


class Head(nn.Module):
    """Project every scale at its own resolution, upsample, sum, ReLU, classify (section 3.2).

    In the head "conv", mmsegmentation's, a linear layer with a ReLU precedes each projection.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        inputs = config.hidden_sizes
        convs: list[nn.Linear] = []
        if config.head == "conv":
            convs = [nn.Linear(channels, size) for channels in inputs]
            inputs = (size,) * len(inputs)
            self.convs = nn.ModuleList(convs)
        # The finest scale's bias is that of all: what is constant passes through upsampling.
        linear = [nn.Linear(channels, size, bias=s == 0) for s, channels in enumerate(inputs)]
        self.linear = nn.ModuleList(linear)
        self.classifier = nn.Linear(size, config.num_labels)
        self._decoder = Decoder(convs, linear, self.classifier)

    def forward(self, scales_NCHW: list[Tensor]) -> Tensor:
        """logits_NKHW at the finest scale, class by class in memory, as blends want them."""
        scales_NHWC = [x_NCHW.permute(0, 2, 3, 1) for x_NCHW in scales_NCHW]
        return operations(scales_NHWC[0]).decode(self._decoder, scales_NHWC)


class SegFormer(nn.Module):
    """MiT encoder and head, in eval mode and without gradients.

    `config` holds the classes, `normalisation` the scale of the input. Move it with
    `model.to(device, dtype)` as usual.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Build the network in float32 on the CPU. Draws no random numbers.

        Do not change the weights afterward: the layers keep what they derive from them.
        """
        super().__init__()
        self.config = config = checkpoint.config
        self.normalisation = checkpoint.normalisation
        with torch.device("meta"):  # no memory yet: the folded weights become the parameters
            self.stages = nn.ModuleList(Stage(config, s) for s in range(len(config.depths)))
            self.head = Head(config)
        self.load_state_dict(fold(checkpoint), assign=True)
        # The order of tokens, into which each call would copy the kernels otherwise.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """logits_NKHW (float32 for float32) at a quarter of the resolution, rounded up; how they
        become those of pixels, `config.align_corners` says.

        pixels_NCHW: normalized (see `normalisation`), of the network's type, at least 32 x 32. At
        one thread a window's logits depend only on its own pixels and on the shape of the batch,
        bit for bit.
        """
        x_NCHW = pixels_NCHW.contiguous(memory_format=torch.channels_last)
        scales_NCHW = []
        with torch.cuda.device_of(x_NCHW):  # Triton launches on the current device
            for stage in self.stages:
                x_NCHW = stage(x_NCHW)  # 1/4, 1/8, 1/16, 1/32 of the pixels' height and width
                scales_NCHW.append(x_NCHW)
            logits_NKHW: Tensor = self.head(scales_NCHW)
        return logits_NKHW


def load_model(
    path_or_url: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    weights: str | None = None,
    normalisation: NormalisationOptions = CHECKPOINTS_OWN,
) -> SegFormer:
    """The network of a checkpoint, in eval mode, float32, on the CPU.

    Takes what `read_checkpoint` takes, and raises what it raises.
    """
    checkpoint = read_checkpoint(
        path_or_url,
        storage_options=storage_options,
        weights=weights,
        normalisation=normalisation,
    )
    return SegFormer(checkpoint)

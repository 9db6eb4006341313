"""The SegFormer network: Mix Transformer encoder and all-MLP head.

Written from Xie et al. 2021, "SegFormer: Simple and Efficient Design for Semantic Segmentation
with Transformers" (arXiv 2105.15203), and from the Apache-2.0 implementation in transformers, whose
results it reproduces. Knows tensors and a ModelConfig; knows no file, no window and no image.

Shape suffixes:
    N images    C channels    H, W height and width at the stage    T = H * W tokens
    S tokens after spatial reduction    A attention heads    D channels per head
    F channels of the Mix-FFN    K classes

Tokens lie in memory as N H W C throughout, so that a feature map is a view of its tokens
(channels_last) and nothing is transposed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segformer.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from segformer.config import BATCH_NORM_EPS, ModelConfig
from segformer.normalisation import Normalisation

LAYER_NORM_EPS = 1e-5
ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


def to_map(x_NTC: Tensor, height: int, width: int) -> Tensor:
    """Tokens as a feature map x_NCHW in channels_last memory: a view."""
    return x_NTC.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def to_tokens(x_NCHW: Tensor) -> Tensor:
    """A feature map as tokens x_NTC: a view if the map is channels_last."""
    return x_NCHW.permute(0, 2, 3, 1).flatten(1, 2)


class PatchEmbedding(nn.Module):
    """Overlapping patch embedding: a strided convolution and a layer norm (section 3.1)."""

    def __init__(self, channels: int, size: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, size, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, int, int]:
        x_NCHW = self.proj(x_NCHW)
        return self.norm(to_tokens(x_NCHW)), x_NCHW.shape[2], x_NCHW.shape[3]


class Attention(nn.Module):
    """Efficient self-attention: keys and values from spatially reduced tokens (section 3.1)."""

    def __init__(self, size: int, heads: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.ratio = ratio
        self.dropout = dropout
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        if ratio > 1:
            self.reduction = nn.Conv2d(size, size, ratio, ratio)
            self.reduction_norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NSC = x_NTC
        if self.ratio > 1:
            reduced_NCHW = self.reduction(to_map(x_NTC, height, width))
            x_NSC = self.reduction_norm(to_tokens(reduced_NCHW))
        y_NATD = F.scaled_dot_product_attention(
            self._split(self.query(x_NTC)),
            self._split(self.key(x_NSC)),
            self._split(self.value(x_NSC)),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(y_NATD.transpose(1, 2).flatten(2))

    def _split(self, x_NTC: Tensor) -> Tensor:
        """x_NATD, a view."""
        return x_NTC.unflatten(2, (self.heads, -1)).transpose(1, 2)


class MixFFN(nn.Module):
    """Linear, 3x3 depthwise convolution, activation, linear (section 3.1): no position codes."""

    def __init__(self, size: int, hidden: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(size, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = ACTIVATION_FUNCTIONS[activation]
        self.contract = nn.Linear(hidden, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NFHW = self.depthwise(to_map(self.expand(x_NTC), height, width))
        x_NTF = self.dropout(self.activation(to_tokens(x_NFHW)))
        return self.dropout(self.contract(x_NTF))


class DropPath(nn.Module):
    """Stochastic depth per image (Huang et al. 2016, arXiv 1603.09382); nothing in eval mode."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x_NTC: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x_NTC
        kept = 1 - self.probability
        return x_NTC * x_NTC.new_empty(len(x_NTC), 1, 1).bernoulli_(kept) / kept


class Block(nn.Module):
    """Pre-norm transformer block: attention and Mix-FFN, each with a residual."""

    def __init__(self, config: ModelConfig, stage: int, drop_path: float) -> None:
        super().__init__()
        size = config.hidden_sizes[stage]
        self.norm1 = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        self.attention = Attention(
            size,
            config.num_attention_heads[stage],
            config.sr_ratios[stage],
            config.attention_probs_dropout_prob,
        )
        self.norm2 = nn.LayerNorm(size, eps=LAYER_NORM_EPS)
        hidden = int(size * config.mlp_ratios[stage])
        self.ffn = MixFFN(size, hidden, config.hidden_act, config.hidden_dropout_prob)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        y_NTC = self.dropout(self.attention(self.norm1(x_NTC), height, width))
        x_NTC = x_NTC + self.drop_path(y_NTC)
        return x_NTC + self.drop_path(self.ffn(self.norm2(x_NTC), height, width))


class Stage(nn.Module):
    """One scale of the encoder: x_NCHW in, x_NCHW at 1 / stride of its size out."""

    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        channels = config.num_channels if stage == 0 else config.hidden_sizes[stage - 1]
        size = config.hidden_sizes[stage]
        self.embedding = PatchEmbedding(
            channels, size, config.patch_sizes[stage], config.strides[stage]
        )
        first, last = sum(config.depths[:stage]), max(sum(config.depths) - 1, 1)
        self.blocks = nn.ModuleList(
            # Deeper blocks are dropped more often: linearly from 0 to drop_path_rate.
            Block(config, stage, config.drop_path_rate * (first + j) / last)
            for j in range(config.depths[stage])
        )
        self.norm = nn.LayerNorm(size, eps=LAYER_NORM_EPS)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NTC, height, width = self.embedding(x_NCHW)
        for block in self.blocks:
            x_NTC = block(x_NTC, height, width)
        return to_map(self.norm(x_NTC), height, width)


class Head(nn.Module):
    """The all-MLP head as published: project, upsample, concatenate, fuse, classify (3.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, scales = config.decoder_hidden_size, len(config.depths)
        self.linear = nn.ModuleList(nn.Linear(c, size) for c in config.hidden_sizes)
        self.fuse = nn.Conv2d(size * scales, size, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(size, eps=BATCH_NORM_EPS)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(size, config.num_labels, 1)

    def forward(self, scales_NCHW: list[Tensor]) -> Tensor:
        full = scales_NCHW[0].shape[2:]
        projected_NCHW = []
        for x_NCHW, linear in zip(scales_NCHW, self.linear, strict=True):
            y_NCHW = to_map(linear(to_tokens(x_NCHW)), *x_NCHW.shape[2:])
            projected_NCHW.append(_upsample(y_NCHW, full))
        # From the coarsest to the finest: the order of the fusion's input channels.
        fused_NCHW = self.fuse(torch.cat(projected_NCHW[::-1], dim=1))
        return self.classifier(self.dropout(F.relu(self.batch_norm(fused_NCHW))))


class FoldedHead(nn.Module):
    """The same function as a `Head` in eval mode, from half of the arithmetic or less.

    Projection, fusion and batch norm are linear in each pixel, and bilinear upsampling weighs
    pixels with a sum of one: they commute. So the three are composed into one matrix per scale
    (in float64) and applied at the scale's own resolution, before the upsampling.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        norm = head.batch_norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain_C = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        slices_CC = head.fuse.weight.double()[:, :, 0, 0].chunk(len(head.linear), dim=1)[::-1]
        bias_C = norm.bias.double() - gain_C * norm.running_mean.double()
        weights_CC = []
        for linear, slice_CC in zip(head.linear, slices_CC, strict=True):
            assert isinstance(linear, nn.Linear)
            weights_CC.append(gain_C[:, None] * (slice_CC @ linear.weight.double()))
            bias_C = bias_C + gain_C * (slice_CC @ linear.bias.double())
        self.linear = nn.ModuleList(_frozen_linear(weight_CC) for weight_CC in weights_CC)
        # A constant survives upsampling unchanged, so the coarsest scale carries it.
        self.linear[-1] = _frozen_linear(weights_CC[-1], bias_C)
        classifier = head.classifier
        assert classifier.bias is not None
        self.classifier = _frozen_linear(classifier.weight[:, :, 0, 0], classifier.bias)

    def forward(self, scales_NCHW: list[Tensor]) -> Tensor:
        # On a CPU image by image: B5's maps of 768 channels leave the cache and fill the memory.
        images = len(scales_NCHW[0])
        step = 1 if scales_NCHW[0].device.type == "cpu" else images
        parts = [
            self._decode([x_NCHW[i : i + step] for x_NCHW in scales_NCHW])
            for i in range(0, images, step)
        ]
        return torch.cat(parts)

    def _decode(self, scales_NCHW: list[Tensor]) -> Tensor:
        height, width = scales_NCHW[0].shape[2:]
        sum_NTC = self.linear[0](to_tokens(scales_NCHW[0]))
        for x_NCHW, linear in zip(scales_NCHW[1:], list(self.linear)[1:], strict=True):
            y_NCHW = to_map(linear(to_tokens(x_NCHW)), *x_NCHW.shape[2:])
            sum_NTC += to_tokens(_upsample(y_NCHW, (height, width)))
        logits_NTK = self.classifier(sum_NTC.relu_())
        return to_map(logits_NTK, height, width).contiguous()


class SegFormer(nn.Module):
    """MiT encoder and all-MLP head. `config` has the classes, `normalisation` the input's scale."""

    def __init__(self, config: ModelConfig, normalisation: Normalisation | None = None) -> None:
        """With random weights, ready for training from scratch."""
        super().__init__()
        self.config = config
        self.normalisation = normalisation or Normalisation.default(config.num_channels)
        self.stages = nn.ModuleList(Stage(config, s) for s in range(len(config.depths)))
        self.head: Head | FoldedHead = Head(config)
        self.apply(partial(_initialise, std=config.initializer_range))

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """logits_NKHW (float32 for float32) at a quarter of the resolution, rounded up.

        pixels_NCHW: float32, normalised (see `normalisation`), at least 32 x 32. In eval mode a
        window's logits depend on its own pixels and on the shape of the batch alone, bit for bit.
        """
        x_NCHW = pixels_NCHW.contiguous(memory_format=torch.channels_last)
        scales_NCHW = []
        for stage in self.stages:
            x_NCHW = stage(x_NCHW)
            scales_NCHW.append(x_NCHW)
        return self.head(scales_NCHW)

    @property
    def folded(self) -> bool:
        return isinstance(self.head, FoldedHead)

    @torch.no_grad()
    def fold(self) -> SegFormer:
        """Replace the head by its folded equal, in place: for inference only. Returns self."""
        if isinstance(self.head, Head):
            self.head = FoldedHead(self.head)
            self.requires_grad_(False)
            self.eval()
        return self


def _upsample(x_NCHW: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    if x_NCHW.shape[2:] == tuple(size):
        return x_NCHW
    return F.interpolate(x_NCHW, size=tuple(size), mode="bilinear", align_corners=False)


def _frozen_linear(weight_CC: Tensor, bias_C: Tensor | None = None) -> nn.Linear:
    """A float32 linear layer without gradients."""
    linear = nn.Linear(weight_CC.shape[1], weight_CC.shape[0], bias_C is not None, device="meta")
    linear.weight = nn.Parameter(weight_CC.detach().float().contiguous(), requires_grad=False)
    if bias_C is not None:
        linear.bias = nn.Parameter(bias_C.detach().float().contiguous(), requires_grad=False)
    return linear


def _initialise(module: nn.Module, std: float) -> None:
    """Linear layers: truncated normal, as in ViT. Convolutions: He, by fan-out per group."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
    elif isinstance(module, nn.Conv2d):
        kernel_h, kernel_w = module.kernel_size
        fan_out = kernel_h * kernel_w * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return  # Norms are already at weight 1 and bias 0.
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def load_model(
    path_or_url: str, *, storage_options: Mapping[str, Any] | None = None, fold: bool = True
) -> SegFormer:
    """The model of a checkpoint, in eval mode, float32, on the CPU."""
    checkpoint = read_checkpoint(path_or_url, storage_options=storage_options)
    with torch.device("meta"):
        model = SegFormer(checkpoint.config, checkpoint.normalisation)
    model.load_state_dict(checkpoint.weights, assign=True)
    model.eval()
    return model.fold() if fold else model


def save_model(model: SegFormer, folder_url: str, *, half: bool = False) -> None:
    weights = dict(model.state_dict())
    checkpoint = Checkpoint(model.config, model.normalisation, weights, "transformers")
    write_checkpoint(checkpoint, folder_url, half=half)

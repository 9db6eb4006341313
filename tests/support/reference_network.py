"""SegFormer as published, written as plainly as possible: the folded network must equal it.

Nothing is fused, folded or reordered; the names of its weights are the canonical ones of
`segformer.checkpoints.layouts`. From Xie et al. 2021 (arXiv 2105.15203) and transformers
(Apache-2.0).
Suffixes: N images, C channels, H W the map, T = H * W tokens, S reduced tokens, A heads, D channels
per head, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from segformer.config import BATCH_NORM_EPS, ModelConfig


def to_map(x_NTC: Tensor, height: int, width: int) -> Tensor:
    return x_NTC.transpose(1, 2).unflatten(2, (height, width))


def to_tokens(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.flatten(2).transpose(1, 2)


class PatchEmbedding(nn.Module):
    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        channels = (config.num_channels, *config.hidden_sizes)[stage]
        size, kernel = config.hidden_sizes[stage], config.patch_sizes[stage]
        self.proj = nn.Conv2d(channels, size, kernel, config.strides[stage], padding=kernel // 2)
        self.norm = nn.LayerNorm(size, eps=config.norm_eps.embedding)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, int, int]:
        x_NCHW = self.proj(x_NCHW)
        return self.norm(to_tokens(x_NCHW)), x_NCHW.shape[2], x_NCHW.shape[3]


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size, ratio = config.hidden_sizes[stage], config.sr_ratios[stage]
        self.heads = config.num_attention_heads[stage]
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self.reduction: nn.Conv2d | None = None
        if ratio > 1:
            self.reduction = nn.Conv2d(size, size, ratio, ratio)
            self.reduction_norm = nn.LayerNorm(size, eps=config.norm_eps.reduction)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NSC = x_NTC
        if self.reduction is not None:
            reduced_NCHW = self.reduction(to_map(x_NTC, height, width))
            x_NSC = self.reduction_norm(to_tokens(reduced_NCHW))
        query_NATD, key_NASD, value_NASD = (
            y.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for y in (self.query(x_NTC), self.key(x_NSC), self.value(x_NSC))
        )
        logits_NATS = query_NATD @ key_NASD.transpose(2, 3) / key_NASD.shape[3] ** 0.5
        y_NATD = logits_NATS.softmax(dim=3) @ value_NASD
        return self.out(y_NATD.transpose(1, 2).flatten(2))


class MixFFN(nn.Module):
    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size = config.hidden_sizes[stage]
        hidden = int(size * config.mlp_ratios[stage])
        self.expand = nn.Linear(size, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.activation = ACT2FN[config.hidden_act]
        self.contract = nn.Linear(hidden, size)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NFHW = self.depthwise(to_map(self.expand(x_NTC), height, width))
        return self.contract(self.activation(to_tokens(x_NFHW)))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        size, eps = config.hidden_sizes[stage], config.norm_eps.block
        self.norm1 = nn.LayerNorm(size, eps=eps)
        self.attention = Attention(config, stage)
        self.norm2 = nn.LayerNorm(size, eps=eps)
        self.ffn = MixFFN(config, stage)

    def forward(self, x_NTC: Tensor, height: int, width: int) -> Tensor:
        x_NTC = x_NTC + self.attention(self.norm1(x_NTC), height, width)
        return x_NTC + self.ffn(self.norm2(x_NTC), height, width)


class Stage(nn.Module):
    def __init__(self, config: ModelConfig, stage: int) -> None:
        super().__init__()
        self.embedding = PatchEmbedding(config, stage)
        self.blocks = nn.ModuleList(Block(config, stage) for _ in range(config.depths[stage]))
        self.norm = nn.LayerNorm(config.hidden_sizes[stage], eps=config.norm_eps.block)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x_NTC, height, width = self.embedding(x_NCHW)
        for block in self.blocks:
            x_NTC = block(x_NTC, height, width)
        return to_map(self.norm(x_NTC), height, width)


class Fusion(nn.Module):
    """The end of both heads: one 1x1 convolution over all scales, batch norm, ReLU, classes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.decoder_hidden_size
        self.fuse = nn.Conv2d(size * len(config.depths), size, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(size, eps=BATCH_NORM_EPS)
        self.classifier = nn.Conv2d(size, config.num_labels, 1)

    def fused(self, projected_NCHW: list[Tensor], full: torch.Size) -> Tensor:
        same_NCHW = [
            F.interpolate(y_NCHW, full, mode="bilinear", align_corners=False)
            for y_NCHW in projected_NCHW
        ]
        fused_NCHW = self.fuse(torch.cat(same_NCHW, dim=1))
        return self.classifier(self.batch_norm(fused_NCHW).relu())


class AllMLPHead(Fusion):
    """The published head: a linear layer per scale, concatenated from coarsest to finest."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size = config.decoder_hidden_size
        self.linear = nn.ModuleList(nn.Linear(c, size) for c in config.hidden_sizes)

    def forward(self, scales_NCHW: list[Tensor]) -> Tensor:
        projected_NCHW = [
            to_map(linear(to_tokens(x_NCHW)), *x_NCHW.shape[2:])
            for x_NCHW, linear in zip(scales_NCHW, self.linear, strict=True)
        ]
        return self.fused(projected_NCHW[::-1], scales_NCHW[0].shape[2:])


class ConvHead(Fusion):
    """mmsegmentation's head: a 1x1 convolution, batch norm and ReLU per scale, finest first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        size = config.decoder_hidden_size
        self.convs = nn.ModuleList(nn.Linear(c, size, bias=False) for c in config.hidden_sizes)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(size, eps=BATCH_NORM_EPS) for _ in config.hidden_sizes
        )

    def forward(self, scales_NCHW: list[Tensor]) -> Tensor:
        projected_NCHW = [
            norm(to_map(conv(to_tokens(x_NCHW)), *x_NCHW.shape[2:])).relu()
            for x_NCHW, conv, norm in zip(scales_NCHW, self.convs, self.norms, strict=True)
        ]
        return self.fused(projected_NCHW, scales_NCHW[0].shape[2:])


class ReferenceSegFormer(nn.Module):
    """The whole network: logits_NKHW at a quarter of the resolution of x_NCHW, rounded up."""

    def __init__(self, config: ModelConfig) -> None:
        """A network with torch's default random weights."""
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(Stage(config, s) for s in range(len(config.depths)))
        self.head = ConvHead(config) if config.head == "conv" else AllMLPHead(config)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        scales_NCHW = []
        for stage in self.stages:
            x_NCHW = stage(x_NCHW)
            scales_NCHW.append(x_NCHW)
        return self.head(scales_NCHW)

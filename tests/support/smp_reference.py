"""segmentation_models_pytorch's Segformer as plainly as possible, and the sliding window over it.

Written from facts about smp 0.6, not from its code: the decoder is the published all-MLP head with
names of its own, and the head's upsampling has align_corners=True. The encoder is that of
`reference_network`. Suffixes: N images, C channels, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.engine.bilinear import Lattice
from segformer import Checkpoint, ModelConfig, Normalisation
from tests.support.foreign_checkpoints import smp
from tests.support.reference_network import Stage, to_map, to_tokens


class ScaleMLP(nn.Module):
    """One scale's linear layer: x_NCHW in, x_NCHW out."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, size)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return to_map(self.linear(to_tokens(x_NCHW)), *x_NCHW.shape[2:])


class Decoder(nn.Module):
    """From the scales, the finest first, to features at a quarter of the pixels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, widths = config.decoder_hidden_size, config.hidden_sizes
        self.mlp_stage = nn.ModuleList(ScaleMLP(width, size) for width in widths[::-1])
        self.fuse_stage = nn.Sequential(
            nn.Conv2d(size * len(widths), size, 1, bias=False), nn.BatchNorm2d(size), nn.ReLU()
        )

    def forward(self, scales_NCHW: list[Tensor]) -> Tensor:
        quarter = scales_NCHW[0].shape[2:]
        projected = [
            F.interpolate(mlp(x_NCHW), quarter, mode="bilinear", align_corners=False)
            for mlp, x_NCHW in zip(self.mlp_stage, scales_NCHW[::-1], strict=True)
        ]
        return self.fuse_stage(torch.cat(projected, dim=1))


class SmpSegformer(nn.Module):
    """Logits of every pixel: x_NCHW to logits_NKHW."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Stage(config, s) for s in range(len(config.depths)))
        self.decoder = Decoder(config)
        self.segmentation_head = nn.Sequential(
            nn.Conv2d(config.decoder_hidden_size, config.num_labels, 1),
            nn.Upsample(scale_factor=4, mode="bilinear", align_corners=True),
        )

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The network of a checkpoint, in float64 and eval mode; the decoder by smp's names."""
        network, weights = cls(checkpoint.config), checkpoint.weights
        encoder = {name: t for name, t in weights.items() if name.startswith("stages.")}
        head = {name: t for name, t in smp(weights).items() if not name.startswith("encoder.")}
        network.load_state_dict(encoder | head)
        return network.double().eval()

    @torch.inference_mode()
    def forward(self, x_NCHW: Tensor) -> Tensor:
        assert x_NCHW.shape[2] % 32 == x_NCHW.shape[3] % 32 == 0
        scales_NCHW = []
        for stage in self.stages:
            x_NCHW = stage(x_NCHW)
            scales_NCHW.append(x_NCHW)
        return self.segmentation_head(self.decoder(scales_NCHW))


def of_every_pixel(logits_Khw: Tensor, height: int, width: int) -> Tensor:
    """A window's logits as the blend samples them, float32 (K, height, width). (F.interpolate
    computes the positions in float32, which at 512 px puts logits 2e-5 off.)"""
    for dim, edge in ((1, height), (2, width)):
        positions = logits_Khw.shape[dim]
        index, weight = Lattice.of(edge, positions, True).samples(np.arange(edge))
        at, by = torch.from_numpy(index), torch.from_numpy(weight)
        below = logits_Khw.index_select(dim, at)
        step = logits_Khw.index_select(dim, (at + 1).clamp(max=positions - 1)) - below
        logits_Khw = below + (by[:, None] if dim == 1 else by) * step
    return logits_Khw


def mean_logits(
    network: Callable[[Tensor], Tensor],
    normalisation: Normalisation,
    values_CHW: np.ndarray,
    window: int,
    stride: int,
) -> Tensor:
    """The reference: the windows' logits of every pixel added up and divided by their count,
    float64 (K, H, W). A scene smaller than the window is filled with the mean to the window."""
    height, width = values_CHW.shape[1:]
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None]
        for v in (normalisation.mean, normalisation.std)
    )
    x_CHW = (torch.from_numpy(values_CHW).double() * normalisation.rescale - mean) / std
    x_CHW = F.pad(x_CHW, (0, max(0, window - width), 0, max(0, window - height)))
    total, count = torch.zeros(()), torch.zeros(x_CHW.shape[1:])
    for y in _origins(x_CHW.shape[1], window, stride):
        for x in _origins(x_CHW.shape[2], window, stride):
            logits_KHW = network(x_CHW[None, :, y : y + window, x : x + window])[0].double()
            if not total.ndim:
                total = torch.zeros(len(logits_KHW), *x_CHW.shape[1:], dtype=torch.float64)
            total[:, y : y + window, x : x + window] += logits_KHW
            count[y : y + window, x : x + window] += 1
    return (total / count)[:, :height, :width]


def class_ids(logits_KHW: Tensor) -> np.ndarray:
    """The classes (H, W): the highest logit, or for a single one whether it is above 0."""
    if len(logits_KHW) == 1:
        logits_KHW = torch.cat([torch.zeros_like(logits_KHW), logits_KHW])
    return logits_KHW.argmax(dim=0).numpy()


def _origins(size: int, window: int, stride: int) -> list[int]:
    return sorted({*range(0, size - window, stride), size - window})

"""The reference sliding window, written as plainly as possible: `swath run` must agree with it.

Knows a model and an array of pixels. Knows no files.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from examples.bluemarble import bluemarble as bm
from segformer import ModelConfig, Normalisation

WINDOW_PX, STRIDE_PX = 512, 384


class Model(Protocol):
    """A model from `load_model`, or one in training."""

    config: ModelConfig
    normalisation: Normalisation

    def __call__(self, pixels_NCHW: torch.Tensor) -> torch.Tensor: ...


def normalise(model: Model, pixels_NHWC: npt.NDArray[np.float32]) -> torch.Tensor:
    """The model's input x_NCHW for pixels of 0 to 255."""
    norm = model.normalisation
    x_NHWC = torch.from_numpy(pixels_NHWC) * norm.rescale
    return ((x_NHWC - torch.tensor(norm.mean)) / torch.tensor(norm.std)).permute(0, 3, 1, 2)


def origins(length_px: int) -> list[int]:
    """Window starts along one edge; the last window is shifted back into the image."""
    last = length_px - WINDOW_PX
    return [*range(0, last, STRIDE_PX), last]


@torch.inference_mode()
def sliding_logits(model: Model, pixels_HWC: bm.Uint8s) -> npt.NDArray[np.float32]:
    """Mean full-resolution logits (K, H, W) of the windows that cover each pixel."""
    height, width = pixels_HWC.shape[:2]
    total_KHW = torch.zeros(model.config.num_labels, height, width)
    count_HW = torch.zeros(height, width)
    for row in origins(height):
        for col in origins(width):
            window = np.s_[row : row + WINDOW_PX, col : col + WINDOW_PX]
            x_NCHW = normalise(model, pixels_HWC[None][:, *window].astype(np.float32))
            logits_NKHW = F.interpolate(model(x_NCHW), scale_factor=4.0, mode="bilinear")
            total_KHW[:, *window] += logits_NKHW[0]
            count_HW[window] += 1
    return (total_KHW / count_HW).numpy()


def tile_logits(model: Model, picture: bm.Uint8s, area: bm.Box) -> npt.NDArray[np.float32]:
    """Logits (K, rows, cols) of an area of whole tiles, each tile separately.

    The job sees them this way: a scene of the archive is one file of 900 x 900 px.
    """
    pixels = picture[area.slices()]
    height, width = pixels.shape[:2]
    out_KHW = np.empty((model.config.num_labels, height, width), np.float32)
    for row in range(0, height, bm.TILE_PX):
        for col in range(0, width, bm.TILE_PX):
            tile = np.s_[row : row + bm.TILE_PX, col : col + bm.TILE_PX]
            out_KHW[:, *tile] = sliding_logits(model, pixels[tile])
    return out_KHW

"""Whole runs compared with a reference sliding window, written as plainly as it is defined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.api import run
from pipeline.settings import Execution, Settings
from segformer import SegFormer, load_model
from tests.support.archives import mask_of, picture, write_scene


def reference(model: SegFormer, values_CHW: np.ndarray, valid_HW: np.ndarray) -> np.ndarray:
    """Class ids (H, W): accumulate full-resolution logits, divide by the count, argmax."""
    window, stride = 512, 384
    height, width = valid_HW.shape
    norm = model.normalisation
    mean, std = (torch.tensor(v)[:, None, None] for v in (norm.mean, norm.std))
    x_CHW = (torch.from_numpy(values_CHW).float() * norm.rescale - mean) / std
    x_CHW[:, torch.from_numpy(~valid_HW)] = 0
    x_CHW = F.pad(x_CHW, (0, max(0, window - width), 0, max(0, window - height)))
    total = torch.zeros(model.config.num_labels, *x_CHW.shape[1:])
    count = torch.zeros(x_CHW.shape[1:])
    for y in origins(x_CHW.shape[1], window, stride):
        for x in origins(x_CHW.shape[2], window, stride):
            placed = np.s_[y : y + window, x : x + window]
            with torch.inference_mode():
                logits = model(x_CHW[:, *placed][None])
            total[:, *placed] += F.interpolate(logits, size=(window, window), mode="bilinear")[0]
            count[placed] += 1
    return (total / count).argmax(dim=0).numpy()[:height, :width]


def origins(size: int, window: int, stride: int) -> list[int]:
    return sorted({*range(0, size - window, stride), size - window})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "nodata"),
    [(1500, 1300, None), (1177, 1430, None), (300, 2500, None), (20, 20, None), (900, 700, 0)],
)
def test_mask_equals_the_reference(
    b0_checkpoint: str, tmp_path: Path, width: int, height: int, nodata: int | None
) -> None:
    values_CHW = picture(width, height)
    valid_HW = np.ones((height, width), bool)
    if nodata is not None:
        values_CHW = np.maximum(values_CHW, 1)
        valid_HW[100:400, 200:900] = False
        valid_HW[500:, :30] = False
        values_CHW[:, ~valid_HW] = nodata
    write_scene(tmp_path / "in" / "scene.tif", width, height, values=values_CHW, nodata=nodata)
    execution = Execution(runner="local", block=1024)
    run([str(tmp_path / "in")], b0_checkpoint, str(tmp_path / "out"), Settings(), execution)

    mask = mask_of(tmp_path / "out", "scene.tif")
    expected = reference(load_model(b0_checkpoint), values_CHW, valid_HW)
    assert ((mask == 255) == ~valid_HW).all()
    assert len(np.unique(expected)) > 1
    differ = (mask != expected) & valid_HW
    assert differ.sum() <= valid_HW.sum() // 100_000

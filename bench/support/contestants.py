"""Sliding windows over one picture: ours, and the loops that people use around transformers.

Each takes a checkpoint and gives a function from pixels_CHW (uint8) to class ids_HW. The loops are
our own code after what the originals do: `mmseg_style` pads every window's logits to the whole
canvas and adds, as mmsegmentation's slide inference does; `slice_add` adds in place; MONAI is MONAI
itself. transformers runs with its default attention, SDPA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.engine.forward import TORCH_DTYPES, Forward
from pipeline.engine.stitcher import Stitcher, blend_on
from pipeline.engine.window_cutter import WindowPixels
from pipeline.grid import WindowGrid
from pipeline.scene import Rect
from pipeline.settings import Settings
from segformer import Normalisation, load_model

Segment = Callable[[np.ndarray], np.ndarray]


def ours(folder: str, settings: Settings, device: str) -> Segment:
    """Our engine: forward pass, blend and argmax, without reading or writing files."""
    model = load_model(folder)
    rescale, classes = model.normalisation.rescale, len(model.config.class_names)
    assert settings.batch is not None
    forward, make_blend = Forward(model, settings, device), blend_on(device, classes)
    forward.resize(settings.batch)

    def segment(pixels_CHW: np.ndarray) -> np.ndarray:
        _, height, width = pixels_CHW.shape
        valid_HW = np.ones((height, width), bool)
        grid = WindowGrid.of(width, height, settings.window, settings.stride)
        core = Rect(0, 0, width, height)
        stitcher = Stitcher(grid, core, valid_HW, classes, make_blend)
        held = forward.hold(pixels_CHW, valid_HW)
        places = iter([(r, c) for r in range(grid.rows.count) for c in range(grid.cols.count)])
        while batch := list(islice(places, settings.batch)):
            origins = [(grid.rows.origin(row), grid.cols.origin(col)) for row, col in batch]
            logits_NKhw = forward([WindowPixels(held, *origin, rescale, 0.0) for origin in origins])
            for place, logits_Khw in zip(batch, logits_NKhw, strict=False):
                stitcher.add(*place, logits_Khw)
        return stitcher.close().class_ids_HW

    return segment


class TransformersLoops:
    """transformers' SegFormer, and the window loops around it."""

    def __init__(
        self, folder: str, settings: Settings, device: str, compiled: bool = False
    ) -> None:
        from transformers import SegformerForSemanticSegmentation  # noqa: PLC0415  takes seconds

        assert settings.batch is not None
        self._settings, self._device, self._batch = settings, device, settings.batch
        self._dtype = TORCH_DTYPES[settings.dtype]
        model = SegformerForSemanticSegmentation.from_pretrained(folder)
        self._model = model.eval().to(device, self._dtype)
        if compiled:
            self._model = torch.compile(self._model, dynamic=False)
        self._classes = int(model.config.num_labels or 0)
        self._normalisation = Normalisation.default(3)

    def mmseg_style(self, pixels_CHW: np.ndarray) -> np.ndarray:
        x_1CHW = self._normalised(pixels_CHW)
        _, _, height, width = x_1CHW.shape
        edge = self._settings.window
        total = x_1CHW.new_zeros((1, self._classes, height, width), dtype=torch.float32)
        count = x_1CHW.new_zeros((1, 1, height, width), dtype=torch.float32)
        for y, x in self._origins(height, width):
            logits = self._upsampled(x_1CHW[:, :, y : y + edge, x : x + edge])
            total += F.pad(logits, (x, width - x - edge, y, height - y - edge))
            count[:, :, y : y + edge, x : x + edge] += 1
        return self._ids(total / count)

    def slice_add(self, pixels_CHW: np.ndarray) -> np.ndarray:
        x_1CHW = self._normalised(pixels_CHW)
        _, _, height, width = x_1CHW.shape
        edge = self._settings.window
        total = x_1CHW.new_zeros((self._classes, height, width), dtype=torch.float32)
        count = x_1CHW.new_zeros((height, width), dtype=torch.float32)
        origins = self._origins(height, width)
        while batch := list(islice(origins, self._batch)):
            windows = [x_1CHW[0, :, y : y + edge, x : x + edge] for y, x in batch]
            for (y, x), logits in zip(batch, self._upsampled(torch.stack(windows)), strict=True):
                total[:, y : y + edge, x : x + edge] += logits
                count[y : y + edge, x : x + edge] += 1
        return self._ids(total.div_(count)[None])

    def monai(self, pixels_CHW: np.ndarray) -> np.ndarray:
        from monai.inferers import sliding_window_inference  # noqa: PLC0415  `make bench` has it

        settings = self._settings
        logits: Any = sliding_window_inference(
            self._normalised(pixels_CHW),
            roi_size=(settings.window, settings.window),
            sw_batch_size=self._batch,
            predictor=self._upsampled,
            overlap=1 - settings.stride / settings.window,
        )
        return self._ids(logits)

    def _normalised(self, pixels_CHW: np.ndarray) -> torch.Tensor:
        norm = self._normalisation
        mean, std = torch.tensor([norm.mean, norm.std])[:, :, None, None].to(self._device)
        x_CHW = torch.from_numpy(pixels_CHW).to(self._device).float()
        x_CHW = (x_CHW * norm.rescale - mean) / std
        return x_CHW[None].to(self._dtype)

    def _upsampled(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        logits = self._model(x_NCHW).logits.float()
        return F.interpolate(logits, x_NCHW.shape[2:], mode="bilinear", align_corners=False)

    def _origins(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        for y in self._starts(height):
            for x in self._starts(width):
                yield y, x

    def _starts(self, size: int) -> list[int]:
        last = size - self._settings.window
        return sorted({*range(0, last, self._settings.stride), last})

    def _ids(self, logits_1KHW: torch.Tensor) -> np.ndarray:
        ids_HW: np.ndarray = logits_1KHW.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
        return ids_HW


def contestant(name: str, folder: str, settings: Settings, device: str) -> Segment:
    """The side of this name, with the checkpoint in `folder` loaded on the device."""
    if name == "ours":
        return ours(folder, settings, device)
    others = TransformersLoops(folder, settings, device, compiled=name.endswith("compiled"))
    loops = {"mmseg-style": others.mmseg_style, "slice-add": others.slice_add}
    loops |= {"slice-add, compiled": others.slice_add, "MONAI": others.monai}
    return loops[name]

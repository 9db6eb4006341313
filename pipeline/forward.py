"""Windows through the network, in batches of one fixed shape, on one device.

A short batch is filled with windows without data, never shrunk: at a fixed shape a window's logits
are bit-equal in any slot. On CUDA a batch is one CUDA graph; no GPU has run that path yet.
Knows neither scenes nor blends, files nor Ray. Suffixes: N batch, C channels, K classes, H W
pixels, h w positions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.settings import Settings
from pipeline.sources import Cut, DeviceSource, HostSource, Source
from segformer import SegFormer

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_WARM_UP = 3
"""Batches before a graph is captured: what a library sets up with its first calls is not in it."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""As malloc.h numbers them."""
_KEPT_BYTES = 1 << 30


class Forward:
    """A model on a device."""

    def __init__(self, model: SegFormer, settings: Settings, device: str) -> None:
        """Ready to compute once it has been resized."""
        if device == "cpu":
            # One thread: with more, a window's logits can depend on their number and on its slot.
            torch.set_num_threads(1)
            keep_freed_memory()
        else:  # float32 means float32, and no kernel is chosen by timing
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        self._device = torch.device(device)
        self._dtype = TORCH_DTYPES[settings.dtype]
        self._model = model.to(self._device, self._dtype)
        self._sigmoid = model.config.sigmoid
        channels = torch.tensor([model.normalisation.mean, model.normalisation.std])
        self._mean_C11, self._std_C11 = channels[:, :, None, None].to(self._device)
        self._edge = settings.window
        self.batch = 0
        """Windows that are computed at once."""
        self._stream = torch.cuda.Stream() if device == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None

    def resize(self, batch: int) -> None:
        """Computes so many windows at once from now on. Raises torch.OutOfMemoryError on a GPU
        without memory for them, and is to be called again then."""
        if batch == self.batch:
            return
        self.batch, self._graph = 0, None
        self._raw_NCHW = self._valid_N1HW = self._logits_NKhw = torch.empty(0)  # what was is freed
        self._shape(batch)
        if self._stream is not None:
            self._capture()
        self.batch = batch

    def source(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> Source:
        """Pixels of a block as they are stored: any number type; bool."""
        if self._stream is None:
            return HostSource(values_CHW, valid_HW)
        return DeviceSource(values_CHW, valid_HW, self._stream, self._edge)

    def __call__(self, cuts: Sequence[Cut]) -> torch.Tensor:
        """float32 logits_NKhw of at most a batch of windows, with more rows if it is short."""
        for slot, cut in enumerate(cuts):
            cut.source.put(cut.top, cut.left, self._raw_NCHW[slot], self._valid_N1HW[slot])
        self._valid_N1HW[len(cuts) :] = False
        scaling = [(cut.scale, cut.offset) for cut in cuts]
        scaling += [(1.0, 0.0)] * (len(self._raw_NCHW) - len(cuts))
        scaling_2N = torch.tensor(scaling).T
        self._scale_N111[:, 0, 0, 0], self._offset_N111[:, 0, 0, 0] = scaling_2N
        if self._graph is None:
            return self._compute()
        self._graph.replay()
        return self._logits_NKhw.clone()  # the next batch is written over them

    def _shape(self, batch: int) -> None:
        """Where a batch is put together."""
        shape = (batch, self._model.config.num_channels, self._edge, self._edge)
        self._raw_NCHW = torch.zeros(shape, device=self._device)
        self._valid_N1HW = torch.zeros(
            (batch, 1, *shape[2:]), dtype=torch.bool, device=self._device
        )
        self._scale_N111 = torch.ones((batch, 1, 1, 1), device=self._device)
        self._offset_N111 = torch.zeros((batch, 1, 1, 1), device=self._device)

    def _compute(self) -> torch.Tensor:
        x_NCHW = self._raw_NCHW * self._scale_N111 + self._offset_N111
        x_NCHW = (x_NCHW - self._mean_C11) / self._std_C11
        # The channel mean is 0 after normalisation: what is not data says nothing.
        x_NCHW = torch.where(self._valid_N1HW & x_NCHW.isfinite(), x_NCHW, 0.0)
        logits_NKhw: torch.Tensor = self._model(x_NCHW.to(self._dtype)).float()
        if self._sigmoid:  # of two classes, the first of which is the absence of the second
            return torch.cat([torch.zeros_like(logits_NKhw), logits_NKhw], dim=1)
        return logits_NKhw

    @torch.inference_mode()
    def _capture(self) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits_NKhw = self._compute()


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed: large buffers that come from the system anew for every
    window cost a fifth of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)

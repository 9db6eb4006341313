"""Windows through the network, in batches of one fixed shape, on one device.

A short batch is filled with windows without data, never shrunk: at a fixed shape a window's logits
are bit-equal in any slot. On CUDA a batch is one CUDA graph.
Knows neither scenes nor blends, files nor Ray. Suffixes: N batch, C channels, K classes, H W
pixels, h w positions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.engine.window_cutter import Cut, Cutter, HostCutter
from pipeline.settings import Settings
from segformer import SegFormer

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_WARM_UP = 3
"""Batches before a graph is captured: what a library sets up with its first calls is not in it."""
GPU_SHARE = 0.9
"""Of a GPU's memory, for its replicas together: drivers and libraries have theirs besides."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""As malloc.h numbers them."""
_KEPT_BYTES = 1 << 30


class Forward:
    """A model on a device."""

    def __init__(self, model: SegFormer, settings: Settings, device: str, sharing: int = 1) -> None:
        """Ready to compute once it has been resized. sharing: replicas on one GPU."""
        if device == "cpu":
            # One thread: with more, a window's logits can depend on their number and on its slot.
            torch.set_num_threads(1)
            keep_freed_memory()
        else:
            torch.cuda.set_per_process_memory_fraction(GPU_SHARE / sharing)
            # float32 means float32, and no kernel is chosen by timing
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        self._device = torch.device(device)
        self._dtype = TORCH_DTYPES[settings.dtype]
        self._model = model.to(self._device, self._dtype)
        self._sigmoid = model.config.sigmoid
        self._edge = settings.window
        self.batch = 0
        """Windows that are computed at once."""
        self._graph: torch.cuda.CUDAGraph | None = None
        if device == "cuda":
            from pipeline.engine.window_cutter_cuda import DeviceCutter  # noqa: PLC0415  Triton is for GPUs only

            self._cutter: Cutter = DeviceCutter(model.normalisation, settings.window)
        else:
            self._cutter = HostCutter(model.normalisation)

    def resize(self, batch: int) -> None:
        """Computes so many windows at once from now on. Raises torch.OutOfMemoryError on a GPU
        without memory for them, and is to be called again then."""
        if batch == self.batch:
            return
        self._cutter.drop()
        self.batch, self._graph = 0, None
        self._x_NCHW = self._logits_NKhw = torch.empty(0)  # what was is freed
        self._shape(batch)
        if self._device.type == "cuda":
            self._capture()
        self.batch = batch

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> Any:
        """The pixels of a block, as `Cut` wants them: stored values of any number type; bool."""
        return self._cutter.hold(values_CHW, valid_HW)

    def __call__(self, cuts: Sequence[Cut]) -> torch.Tensor:
        """float32 logits_NKhw of at most a batch of windows, with more rows if it is short."""
        self._cutter.cut(cuts, self._x_NCHW)
        self._x_NCHW[len(cuts) :] = 0
        if self._graph is None:
            logits_NKhw = self._compute().float()
        else:
            self._graph.replay()
            # Copied: the next batch is written over them.
            logits_NKhw = self._logits_NKhw.to(torch.float32, copy=True)
        if self._sigmoid:  # of two classes, the first of which is the absence of the second
            return torch.cat([torch.zeros_like(logits_NKhw), logits_NKhw], dim=1)
        return logits_NKhw

    def _shape(self, batch: int) -> None:
        """Where a batch is put together."""
        shape = (batch, self._model.config.num_channels, self._edge, self._edge)
        self._x_NCHW = torch.empty(
            shape, dtype=self._dtype, device=self._device, memory_format=torch.channels_last
        ).zero_()

    def _compute(self) -> torch.Tensor:
        logits_NKhw: torch.Tensor = self._model(self._x_NCHW)
        return logits_NKhw

    @torch.inference_mode()
    def _capture(self) -> None:
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        # A capture that fails leaves its stream the current one: within this block, not after it.
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._compute()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._logits_NKhw = self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = graph


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed: large buffers that come from the system anew for every
    window cost a fifth of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)

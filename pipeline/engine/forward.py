"""Windows through the network, in batches of one fixed shape, on one device.

A short batch is filled with windows without data, never shrunk: at a fixed shape a window's logits
are bit-equal in any slot. On CUDA a batch is one CUDA graph.
Knows neither scenes nor blends, files nor Ray. Suffixes: N batch, C channels, K classes, H W
pixels, h w positions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.engine.window_cutter import Cutter, HeldPixels, HostCutter, WindowPixels
from pipeline.settings import Settings
from segformer import SegFormer
from segformer.compiled import settle_triton_cache

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
GPU_SHARE = 0.9
"""The share of a GPU's memory for all its replicas: drivers and libraries take some besides."""
_WARM_UP_BATCHES = 3
"""Computed before a graph is captured, so that what a library sets up in its first calls is not in
it."""
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Parameters of mallopt, as malloc.h numbers them."""
_RETAINED_BYTES = 1 << 30


class Forward:
    """A model on a device."""

    def __init__(self, model: SegFormer, settings: Settings, device: str, sharing: int = 1) -> None:
        """Move the model to the device; `resize` before the first batch.

        sharing: the number of replicas on one GPU.
        """
        _set_up(device, sharing)
        self._device = torch.device(device)
        self._dtype = TORCH_DTYPES[settings.dtype]
        self._model = model.to(self._device, self._dtype)
        self._sigmoid = model.config.sigmoid
        self._edge = settings.window
        self.batch = 0
        """The number of windows that are computed at once."""
        self._graph: torch.cuda.CUDAGraph | None = None
        if device == "cuda":
            from pipeline.engine.window_cutter_cuda import DeviceCutter  # noqa: PLC0415  Triton is for GPUs only

            self._cutter: Cutter = DeviceCutter(model.normalisation, settings.window)
        else:
            self._cutter = HostCutter(model.normalisation)

    def resize(self, batch: int) -> None:
        """Compute `batch` windows at once from now on. Pixels held until now are dropped.

        Raises torch.OutOfMemoryError if a GPU has no memory for them; resize again then.
        """
        if batch == self.batch:
            return
        self._cutter.drop()
        self.batch, self._graph = 0, None
        self._x_NCHW = self._logits_NKhw = torch.empty(0)  # frees the previous ones
        self._x_NCHW = self._empty_batch(batch)
        if self._device.type == "cuda":
            self._capture()
        self.batch = batch

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> HeldPixels:
        """The pixels of a block, for windows to be cut from: stored values of any number type;
        bool, True = data."""
        return self._cutter.hold(values_CHW, valid_HW)

    def __call__(self, windows: Sequence[WindowPixels]) -> torch.Tensor:
        """float32 logits_NKhw of at most a batch of windows, with more rows if it is short."""
        self._cutter.cut(windows, self._x_NCHW)
        self._x_NCHW[len(windows) :] = 0
        if self._graph is None:
            logits_NKhw = self._compute().float()
        else:
            self._graph.replay()
            # A copy, for the next batch overwrites them.
            logits_NKhw = self._logits_NKhw.to(torch.float32, copy=True)
        if self._sigmoid:  # of two classes, the first of which is the absence of the second
            return torch.cat([torch.zeros_like(logits_NKhw), logits_NKhw], dim=1)
        return logits_NKhw

    def _empty_batch(self, batch: int) -> torch.Tensor:
        shape = (batch, self._model.config.num_channels, self._edge, self._edge)
        return torch.empty(
            shape, dtype=self._dtype, device=self._device, memory_format=torch.channels_last
        ).zero_()

    def _compute(self) -> torch.Tensor:
        logits_NKhw: torch.Tensor = self._model(self._x_NCHW)
        return logits_NKhw

    @torch.inference_mode()
    def _capture(self) -> None:
        """Capture a batch as a CUDA graph."""
        aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        # A capture that fails leaves its stream the current one: within this block, not after it.
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP_BATCHES):
                self._compute()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._logits_NKhw = self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = graph


def tune_malloc() -> None:
    """Have glibc keep freed memory: large buffers that come from the system again for every window
    cost a fifth of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _RETAINED_BYTES)
        mallopt(_TRIM_THRESHOLD, _RETAINED_BYTES)


def _set_up(device: str, sharing: int) -> None:
    """The settings of torch, for the whole process, by which a window's logits are always the same
    bits."""
    if device == "cpu":
        # One thread: with more, a window's logits can depend on their number and on its slot.
        torch.set_num_threads(1)
        tune_malloc()
    else:
        settle_triton_cache()
        torch.cuda.set_per_process_memory_fraction(GPU_SHARE / sharing)
        # float32 means float32, and no kernel is chosen by timing
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True

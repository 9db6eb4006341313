"""Cuts windows on a CUDA device, to which the pixels of their blocks are sent in strips.

Knows what the kernel of `window_cutter_triton.py` reads and writes, not how it computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import numpy as np
import torch

from pipeline.engine.transfers import copy_to_pinned, to_device, torch_dtype
from pipeline.engine.window_cutter import HeldPixels, WindowPixels
from pipeline.engine.window_cutter_triton import cut_windows
from segformer import Normalisation

PROGRAM_PIXELS = 512
"""Pixels of a window that a program of `cut_windows` takes."""
PINNED_STRIPS = 2
"""Strips on their way at once, beside the one that is copied: pinned memory cannot be moved by the
system."""


class DevicePixels(HeldPixels):
    """The pixels of a block on the device, or on their way to it: the stored values_CHW, and
    valid_HW as uint8."""

    def __init__(self, values_CHW: np.ndarray, valid_HW: np.ndarray, device: torch.device) -> None:
        self.values_CHW = torch.empty(
            values_CHW.shape, dtype=torch_dtype(values_CHW), device=device
        )
        self.valid_HW = torch.empty(valid_HW.shape, dtype=torch.uint8, device=device)
        self._host = values_CHW, valid_HW.view(np.uint8)
        self._arrived = 0
        """The number of rows for which the current stream waits already."""
        self._coming: list[tuple[int, Future[torch.cuda.Event]]] = []
        """The strips on their way, the next one last: the row at which each ends, and the event of
        its arrival."""

    def send(self, rows: int, uploader: _Uploader) -> None:
        """Start sending, in strips of that many rows."""
        for tensor in (self.values_CHW, self.valid_HW):
            tensor.record_stream(uploader.stream)
        values_CHW, valid_HW = self._host
        planes = [*zip(values_CHW, self.values_CHW, strict=True), (valid_HW, self.valid_HW)]
        height = len(valid_HW)
        for start in range(0, height, rows):
            strip = slice(start, min(start + rows, height))
            parts = [(host_HW[strip], device_HW[strip]) for host_HW, device_HW in planes]
            self._coming.append((strip.stop, uploader.send(parts)))
        self._coming.reverse()

    def wait_for(self, rows: int) -> None:
        """Have the current stream wait until the first rows have arrived."""
        while self._coming and self._arrived < rows:
            self._arrived, event = self._coming.pop()
            torch.cuda.current_stream().wait_event(event.result())


class _Uploader:
    """Sends pixels to the device: a thread copies them into pinned memory, from which a stream of
    its own carries them over."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self._thread = ThreadPoolExecutor(1, "to the GPU")
        self._pinned: deque[torch.cuda.Event] = deque()
        """The arrivals of strips that are in pinned memory."""

    def send(self, parts: Sequence[tuple[np.ndarray, torch.Tensor]]) -> Future[torch.cuda.Event]:
        """Copy each array to its tensor; returns the event of the last one's arrival."""
        return self._thread.submit(self._send, parts)

    def close(self) -> None:
        """Cancel what is not in pinned memory yet, and wait for the rest."""
        self._thread.shutdown(cancel_futures=True)
        self.stream.synchronize()

    @torch.inference_mode()
    def _send(self, parts: Sequence[tuple[np.ndarray, torch.Tensor]]) -> torch.cuda.Event:
        if len(self._pinned) == PINNED_STRIPS:
            self._pinned.popleft().synchronize()
        with torch.cuda.stream(self.stream):
            for host_HW, device_HW in parts:
                device_HW.copy_(copy_to_pinned(host_HW), non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pinned.append(event)
        return event


class DeviceCutter:
    """Cuts windows on a CUDA device, or in Triton's interpreter on the CPU."""

    def __init__(self, normalisation: Normalisation, edge_px: int, device: str = "cuda") -> None:
        self._device, self._edge_px = torch.device(device), edge_px
        channels = np.array([normalisation.mean, normalisation.std], np.float32)
        self._channels_2C = to_device(channels, self._device)
        self._uploader = _Uploader() if device == "cuda" else None

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> DevicePixels:
        pixels = DevicePixels(values_CHW, valid_HW, self._device)
        if self._uploader:
            # Earlier work of the current stream may still use their memory.
            self._uploader.stream.wait_stream(torch.cuda.current_stream())
            pixels.send(self._edge_px, self._uploader)
        else:
            pixels.values_CHW.copy_(torch.from_numpy(values_CHW))
            pixels.valid_HW.copy_(torch.from_numpy(valid_HW))
        return pixels

    def cut(self, windows: Sequence[WindowPixels], x_NCHW: torch.Tensor) -> None:
        """One launch for each run of windows of one block."""
        places_N2 = to_device(np.array([(w.top, w.left) for w in windows]), self._device)
        slot = 0
        for _, run in groupby(windows, key=lambda window: id(window.held)):
            of_block = list(run)
            self._launch(of_block, slot, places_N2, x_NCHW)
            slot += len(of_block)

    def drop(self) -> None:
        if self._uploader:
            self._uploader.close()
            torch.cuda.synchronize()
            self._uploader = _Uploader()

    def _launch(
        self,
        windows: Sequence[WindowPixels],
        slot: int,
        places_N2: torch.Tensor,
        x_NCHW: torch.Tensor,
    ) -> None:
        """Cut windows of one block; the first of them goes to x_NCHW[slot]."""
        pixels, scale, offset = windows[0].held, windows[0].scale, windows[0].offset
        assert isinstance(pixels, DevicePixels)
        edge, (height, width) = self._edge_px, pixels.valid_HW.shape
        pixels.wait_for(min(max(window.top for window in windows) + edge, height))
        cut_windows[-(-(edge**2) // PROGRAM_PIXELS), len(windows)](
            *(pixels.values_CHW, pixels.valid_HW, places_N2, self._channels_2C),
            *(x_NCHW, height, width, slot, scale, offset),
            edge=edge,
            channel_count=x_NCHW.shape[1],
            program_pixels=PROGRAM_PIXELS,
            enable_fp_fusion=False,
        )

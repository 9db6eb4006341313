"""Windows cut and normalised on a CUDA device, where the pixels of their blocks go up in strips.

Knows what the kernel of `cut_triton.py` reads and writes, not how it computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

import numpy as np
import torch

from pipeline.engine import window_cutter_triton
from pipeline.engine.device import pinned, sent, torch_dtype
from pipeline.engine.window_cutter import Cut
from segformer import Normalisation

PIXELS = 512
"""Of a program."""
PINNED_STRIPS = 2
"""On their way at once, beside the one that is copied: memory that the system cannot move."""


class SentPixels:
    """Of a block: stored values_CHW and valid_HW (uint8) on the device, or on their way there."""

    def __init__(self, values_CHW: np.ndarray, valid_HW: np.ndarray, device: torch.device) -> None:
        self.values_CHW = torch.empty(
            values_CHW.shape, dtype=torch_dtype(values_CHW), device=device
        )
        self.valid_HW = torch.empty(valid_HW.shape, dtype=torch.uint8, device=device)
        self._host = values_CHW, valid_HW.view(np.uint8)
        self._arrived = 0
        self._coming: list[tuple[int, Future[torch.cuda.Event]]] = []
        """Of each strip: where it ends, and what happens when it is there."""

    def send(self, rows: int, way: _Way) -> None:
        """In strips of so many rows."""
        for there in (self.values_CHW, self.valid_HW):
            there.record_stream(way.stream)
        values_CHW, valid_HW = self._host
        planes = [*zip(values_CHW, self.values_CHW, strict=True), (valid_HW, self.valid_HW)]
        height = len(valid_HW)
        for start in range(0, height, rows):
            strip = slice(start, min(start + rows, height))
            parts = [(host_HW[strip], there_HW[strip]) for host_HW, there_HW in planes]
            self._coming.append((strip.stop, way.send(parts)))
        self._coming.reverse()

    def wait_for(self, rows: int) -> None:
        """The current stream does, until the first rows are there."""
        while self._coming and self._arrived < rows:
            self._arrived, event = self._coming.pop()
            torch.cuda.current_stream().wait_event(event.result())


class _Way:
    """To the device: a thread copies into pinned memory what a stream of its own carries over."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self._thread = ThreadPoolExecutor(1, "to the GPU")
        self._under_way: deque[torch.cuda.Event] = deque()

    def send(self, parts: Sequence[tuple[np.ndarray, torch.Tensor]]) -> Future[torch.cuda.Event]:
        """From here to there; what happens when all are there."""
        return self._thread.submit(self._send, parts)

    def close(self) -> None:
        """What is not under way yet stays here."""
        self._thread.shutdown(cancel_futures=True)
        self.stream.synchronize()

    @torch.inference_mode()
    def _send(self, parts: Sequence[tuple[np.ndarray, torch.Tensor]]) -> torch.cuda.Event:
        if len(self._under_way) == PINNED_STRIPS:
            self._under_way.popleft().synchronize()
        with torch.cuda.stream(self.stream):
            for host_HW, there_HW in parts:
                there_HW.copy_(pinned(host_HW), non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._under_way.append(event)
        return event


class DeviceCutter:
    """On a CUDA device, or by the interpreter on the CPU."""

    def __init__(self, normalisation: Normalisation, edge_px: int, device: str = "cuda") -> None:
        self._device, self._edge_px = torch.device(device), edge_px
        channels = np.array([normalisation.mean, normalisation.std], np.float32)
        self._channels_2C = sent(channels, self._device)
        self._way = _Way() if device == "cuda" else None

    def hold(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> SentPixels:
        pixels = SentPixels(values_CHW, valid_HW, self._device)
        if self._way:
            # Their memory may still be in use by what was asked for before.
            self._way.stream.wait_stream(torch.cuda.current_stream())
            pixels.send(self._edge_px, self._way)
        else:
            pixels.values_CHW.copy_(torch.from_numpy(values_CHW))
            pixels.valid_HW.copy_(torch.from_numpy(valid_HW))
        return pixels

    def cut(self, cuts: Sequence[Cut], x_NCHW: torch.Tensor) -> None:
        """In one launch what follows each other from one block."""
        places_N2 = sent(np.array([(cut.top, cut.left) for cut in cuts]), self._device)
        programs, slot, edge = -(-(self._edge_px**2) // PIXELS), 0, self._edge_px
        for _, group in groupby(cuts, key=lambda cut: id(cut.pixels)):
            some = list(group)
            pixels, scale, offset = some[0].pixels, some[0].scale, some[0].offset
            height, width = pixels.valid_HW.shape
            pixels.wait_for(min(max(cut.top for cut in some) + edge, height))
            normalised_windows_triton.cut[programs, len(some)](
                *(pixels.values_CHW, pixels.valid_HW, places_N2, self._channels_2C),
                *(x_NCHW, height, width, slot, scale, offset),
                edge=edge,
                count=x_NCHW.shape[1],
                pixels=PIXELS,
                enable_fp_fusion=False,
            )
            slot += len(some)

    def drop(self) -> None:
        if self._way:
            self._way.close()
            torch.cuda.synchronize()
            self._way = _Way()

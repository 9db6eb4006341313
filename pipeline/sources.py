"""The pixels of a block where the network runs, and windows cut from them.

On a GPU they go up in strips, on a stream of their own; no GPU has run that path yet. Knows neither
the network nor scenes. Suffixes: C channels, H W pixels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch


class Source(Protocol):
    """The pixels of a block, as its windows are cut from them."""

    def put(self, top: int, left: int, raw_CHW: torch.Tensor, valid_1HW: torch.Tensor) -> None:
        """Stored values and which of them are data; beyond the pixels' edges nothing is."""


@dataclass(frozen=True)
class Cut:
    """Where a window lies in the pixels of its block, and how their values become reflectances."""

    source: Source
    top: int
    left: int
    scale: float
    offset: float


class HostSource:
    """Pixels that lie where the network runs."""

    def __init__(self, values_CHW: np.ndarray, valid_HW: np.ndarray) -> None:
        self._values_CHW = values_CHW
        self._valid_HW = valid_HW

    def put(self, top: int, left: int, raw_CHW: torch.Tensor, valid_1HW: torch.Tensor) -> None:
        edge = raw_CHW.shape[-1]
        here = np.s_[top : top + edge, left : left + edge]
        valid_HW = self._valid_HW[here]
        height, width = valid_HW.shape
        raw_CHW.numpy()[:, :height, :width] = self._values_CHW[:, *here]
        valid_1HW[:] = False
        valid_1HW.numpy()[0, :height, :width] = valid_HW


class DeviceSource:
    """Pixels on their way to a GPU: while windows are cut from one strip, the next one goes up."""

    def __init__(
        self,
        values_CHW: np.ndarray,
        valid_HW: np.ndarray,
        stream: torch.cuda.Stream,
        strip_px: int,
    ) -> None:
        self._host = values_CHW, valid_HW[None]
        self._stream = stream
        self._strip_px = strip_px
        stream.wait_stream(torch.cuda.current_stream())  # which may still use the memory we get
        self._there = tuple(
            torch.empty(host.shape, dtype=torch_dtype(host), device="cuda") for host in self._host
        )
        for there in self._there:
            there.record_stream(stream)
        self._sent = self._arrived = 0
        self._on_the_way: deque[tuple[int, torch.cuda.Event]] = deque()
        self._send()

    def put(self, top: int, left: int, raw_CHW: torch.Tensor, valid_1HW: torch.Tensor) -> None:
        edge = raw_CHW.shape[-1]
        self._await(min(top + edge, self._host[0].shape[1]))
        values_CHW, valid_HW = (t[:, top : top + edge, left : left + edge] for t in self._there)
        height, width = valid_HW.shape[1:]
        raw_CHW[:, :height, :width] = values_CHW
        valid_1HW[:] = False
        valid_1HW[:, :height, :width] = valid_HW

    def _await(self, rows: int) -> None:
        while self._arrived < rows:
            self._arrived, event = self._on_the_way.popleft()
            torch.cuda.current_stream().wait_event(event)
            self._send()

    def _send(self) -> None:
        end = min(self._sent + self._strip_px, self._host[0].shape[1])
        if end == self._sent:
            return
        strip = np.s_[:, self._sent : end]
        with torch.cuda.stream(self._stream):
            for host, there in zip(self._host, self._there, strict=True):
                pinned = torch.empty_like(there[strip], device="cpu", pin_memory=True)
                pinned.numpy()[:] = host[strip]
                there[strip].copy_(pinned, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._on_the_way.append((end, event))
        self._sent = end


def torch_dtype(values: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, values.dtype)).dtype

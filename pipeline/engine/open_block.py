"""A block under way: its windows, and what becomes of their logits.

Suffixes: K classes, H W pixels, h w positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from pipeline.engine.stitcher import Stitcher
from pipeline.engine.window_cutter import HeldPixels, WindowPixels
from pipeline.errors import InputError
from pipeline.failure import Failure
from pipeline.grid import WindowGrid
from pipeline.scene import Rect
from pipeline.unit import Block, Pixels, Stitched, failure_of


class Scaling(NamedTuple):
    """The numbers in value * scale + offset, which takes stored values to values as the network
    gets them before normalization."""

    scale: float
    offset: float


class _Checked(NamedTuple):
    """A window whose logits have been checked."""

    finite: torch.Tensor
    """bool, on the device: whether all of its logits are finite. To ask now would be to wait."""
    row: int
    col: int


@dataclass(frozen=True)
class Window:
    """A window of an open block."""

    block: OpenBlock
    row: int
    col: int
    """Its place in the window grid."""
    pixels: WindowPixels


@dataclass
class OpenBlock:
    """A block whose windows are being computed."""

    block: Block
    pixels: Pixels
    """The block's pixels with their halo."""
    held: HeldPixels
    """The same pixels, as the forward pass holds them."""
    grid: WindowGrid
    stitcher: Stitcher
    scaling: Scaling
    checked: list[_Checked] = field(default_factory=list)
    """The block's windows whose logits have come so far."""
    result: Stitched | Failure | None = None
    """Set when it is closed."""

    def windows(self) -> Iterator[Window]:
        """The windows that have a valid pixel, row by row."""
        rows, cols = self.grid.touching(self.block.core)
        rect, edge = self.pixels.rect, self.grid.rows.window_px
        for row in rows:
            top = self.grid.rows.origin(row) - rect.row_off
            for col in cols:
                left = self.grid.cols.origin(col) - rect.col_off
                if self.pixels.valid_HW[top : top + edge, left : left + edge].any():
                    pixels = WindowPixels(self.held, top, left, *self.scaling)
                    yield Window(self, row, col, pixels)

    def add(self, window: Window, logits_Khw: torch.Tensor, finite: torch.Tensor) -> None:
        """Take a window's logits, and whether all of them are finite."""
        self.checked.append(_Checked(finite, window.row, window.col))
        self.stitcher.add(window.row, window.col, logits_Khw)

    def close(self, dtype: str) -> Stitched | Failure:
        """Blend what is left and let go of the logits. A second call changes nothing."""
        if self.result is None:
            stitched, bad_window = self.stitcher.close(), self._first_non_finite()
            self.result = (
                stitched if bad_window is None else _non_finite(self.block, bad_window, dtype)
            )
        return self.result

    def _first_non_finite(self) -> Rect | None:
        """The first window with NaN or infinite logits."""
        if not self.checked:
            return None
        flags = torch.stack([window.finite for window in self.checked]).cpu()
        if flags.all():
            return None
        _, row, col = self.checked[int(flags.int().argmin())]
        edge = self.grid.rows.window_px
        return Rect(self.grid.cols.origin(col), self.grid.rows.origin(row), edge, edge)


def _non_finite(block: Block, window: Rect, dtype: str) -> Failure:
    remedy = (
        "use --dtype float32 or bfloat16"
        if dtype == "float16"
        else "check the checkpoint and --scale/--offset"
    )
    url = block.scene.url
    what = f"the network gave NaN or infinite logits in window {window} at {dtype}; {remedy}"
    return failure_of(InputError(f"{url}: {what}", url=url, stage="segment"), block)

"""A block under way: its windows, and what becomes of their logits.

Suffixes: K classes, H W pixels, h w positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.engine.window_cutter import Cut
from pipeline.engine.stitcher import Stitcher
from pipeline.errors import InputError
from pipeline.failure import Failure
from pipeline.grid import WindowGrid
from pipeline.scene import Rect
from pipeline.unit import Block, Pixels, Stitched, failure_of


@dataclass
class OpenBlock:
    """A block under way."""

    block: Block
    pixels: Pixels
    held: Any
    """Its pixels, as the forward pass holds them."""
    grid: WindowGrid
    stitcher: Stitcher
    scaling: tuple[float, float]
    finite: list[tuple[torch.Tensor, int, int]] = field(default_factory=list)
    """Of each window: whether all its logits are (on the device: to ask would be to wait), its row
    and column."""
    result: Stitched | Failure | None = None

    def windows(self) -> Iterator[Window]:
        """Those that have a valid pixel, row by row."""
        rows, cols = self.grid.touching(self.block.core)
        rect, edge = self.pixels.rect, self.grid.rows.window_px
        for row in rows:
            top = self.grid.rows.origin(row) - rect.row_off
            for col in cols:
                left = self.grid.cols.origin(col) - rect.col_off
                if self.pixels.valid_HW[top : top + edge, left : left + edge].any():
                    yield Window(self, row, col, Cut(self.held, top, left, *self.scaling))

    def add(self, window: Window, logits_Khw: torch.Tensor, finite: torch.Tensor) -> None:
        self.finite.append((finite, window.row, window.col))
        self.stitcher.add(window.row, window.col, logits_Khw)

    def close(self, dtype: str) -> Stitched | Failure:
        """Blends what is left and lets the logits go. A second call changes nothing."""
        if self.result is None:
            stitched, bad = self.stitcher.close(), self._first_bad()
            self.result = stitched if bad is None else _non_finite(self.block, bad, dtype)
        return self.result

    def _first_bad(self) -> Rect | None:
        """The first window with NaN or infinite logits."""
        if not self.finite:
            return None
        flags = torch.stack([finite for finite, _, _ in self.finite]).cpu()
        if flags.all():
            return None
        _, row, col = self.finite[int(flags.int().argmin())]
        edge = self.grid.rows.window_px
        return Rect(self.grid.cols.origin(col), self.grid.rows.origin(row), edge, edge)


@dataclass(frozen=True)
class Window:
    block: OpenBlock
    row: int
    col: int
    cut: Cut


def _non_finite(block: Block, window: Rect, dtype: str) -> Failure:
    remedy = (
        "use --dtype float32 or bfloat16"
        if dtype == "float16"
        else "check the checkpoint and --scale/--offset"
    )
    url = block.scene.url
    what = f"the network gave NaN or infinite logits in window {window} at {dtype}; {remedy}"
    return failure_of(InputError(f"{url}: {what}", url=url, stage="segment"), block)

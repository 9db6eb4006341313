"""Exact blend of overlapping windows: which of them cover what, and which are still needed.

The reference definition upsamples every window's logits to full resolution, adds them up, divides
by the count and takes the argmax. Upsampling is linear, so where the set of covering windows is
constant their logits can be added at a quarter of the resolution and upsampled once; the argmax
needs no division. `blend.py` and its sisters do the arithmetic.

Knows neither pixels nor the network, nor how a strip is blended.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.engine.bilinear import Segment, segments
from pipeline.engine.blend import Blend, MakeBlend, PlainBlend, Region
from pipeline.grid import WindowGrid
from pipeline.scene import Rect
from pipeline.unit import Stitched


def blend_on(device: str, num_classes: int) -> MakeBlend:
    """The fastest blend for a kind of device ("cpu", "cuda", ...), compiled: takes seconds where
    nothing is kept from an earlier time."""
    fastest: MakeBlend = PlainBlend
    if device == "cpu":
        from pipeline.engine.blend_cpu import CompiledBlend  # noqa: PLC0415  only a replica needs numba

        fastest = CompiledBlend
    elif device == "cuda":
        from pipeline.engine.blend_cuda import TritonBlend  # noqa: PLC0415  and Triton only a GPU

        fastest = TritonBlend
    # Two windows in each direction, the second of which shares no positions with the first.
    grid, core = WindowGrid.of(11, 11, 8, 8), Rect(0, 0, 11, 11)
    stitcher = Stitcher(grid, core, np.ones((11, 11), bool), num_classes, fastest)
    for row, col in np.ndindex(2, 2):
        stitcher.add(row, col, torch.zeros(num_classes, 2, 2, device=device))
    stitcher.close()
    return fastest


class Stitcher:
    """Takes the windows of one block in row-major order and keeps only the live rows of them."""

    def __init__(
        self,
        grid: WindowGrid,
        core: Rect,
        valid_HW: np.ndarray,
        num_classes: int,
        make_blend: MakeBlend,
    ):
        """valid_HW: bool, of the core. Windows without a valid pixel need not be added."""
        self._grid = grid
        self._core = core
        self._valid_HW = valid_HW
        self._classes = num_classes
        self._make_blend = make_blend
        self._blend: Blend | None = None
        self._strips: list[Segment] = []
        """What is yet to be blended, from the last to the next."""
        self._live: dict[tuple[int, int], torch.Tensor] = {}

    def add(self, row: int, col: int, logits_Khw: torch.Tensor) -> None:
        """float32 logits of the window at this place of the grid, at a quarter of its size.

        They are kept as they are, not copied, until every pixel under them is blended.
        """
        if self._blend is None:
            self._begin(logits_Khw.shape[-1])
        self._blend_before(row)
        self._live[row, col] = logits_Khw

    def close(self) -> Stitched:
        """Blends what is left once all windows have been added."""
        if self._blend is None:  # no pixel of the block is valid
            return self._region(low=1).nothing()
        self._blend_before(self._grid.rows.count)
        self._live.clear()
        return self._blend.close()

    def _begin(self, low: int) -> None:
        """The first window says how many positions each of them has."""
        core = self._core
        self._strips = segments(self._grid.rows, core.row_off, core.row_end, low)[::-1]
        self._blend = self._make_blend(self._region(low))

    def _region(self, low: int) -> Region:
        core, cols = self._core, self._grid.cols
        return Region(
            core,
            self._valid_HW,
            self._classes,
            cols.window_px,
            low,
            cols.touching(core.col_off, core.col_end),
            segments(cols, core.col_off, core.col_end, low),
            max((len(strip.groups) for strip in self._strips), default=0),
        )

    def _blend_before(self, row: int) -> None:
        """Blends the strips that no window of this row or a later one touches."""
        assert self._blend is not None
        while self._strips:
            strip = self._strips[-1]
            rows = self._grid.rows.touching(strip.start, strip.end)
            if rows[-1] >= row:
                return
            for key in [key for key in self._live if key[0] < rows[0]]:
                del self._live[key]
            self._blend.strip(strip, self._live)
            self._strips.pop()

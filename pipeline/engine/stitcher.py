"""Exact blend of overlapping windows: which of them cover what, and which are still needed.

The reference definition upsamples every window's logits to full resolution, each as its network
does, adds them up, divides by the count and takes the argmax. Upsampling is linear, so where the
set of covering windows is constant the logits of those that share their positions can be added at
the network's own resolution and upsampled once; the argmax needs no division. A `Blend` does the
arithmetic.

Knows neither pixels nor the network, nor how a strip is blended.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.engine.bilinear import Lattice, Span, split_axis
from pipeline.engine.blend import Blend, MakeBlend, Region
from pipeline.engine.blend_plain import PlainBlend
from pipeline.grid import WindowGrid
from pipeline.scene import Rect
from pipeline.unit import Stitched


def blend_on(device: str, num_classes: int) -> MakeBlend:
    """The fastest blend for a kind of device ("cpu", "cuda", ...), compiled, which takes seconds
    unless an earlier process has left its machine code."""
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
        align_corners: bool = False,
    ):
        """valid_HW: bool, True = data, of the core. Windows without a valid pixel need not be
        added. align_corners: how the network upsamples its logits (`Lattice`)."""
        self._grid = grid
        self._core = core
        self._valid_HW = valid_HW
        self._classes = num_classes
        self._make_blend = make_blend
        self._align_corners = align_corners
        self._blend: Blend | None = None
        self._strips: list[Span] = []
        """The strips yet to be blended, the next one last."""
        self._live: dict[tuple[int, int], torch.Tensor] = {}

    def add(self, row: int, col: int, logits_Khw: torch.Tensor) -> None:
        """Take the float32 logits of the window at this row and column of the grid.

        They are kept as they are, not copied, until every pixel under them is blended.
        """
        if self._blend is None:
            self._begin(logits_Khw.shape[-1])
        self._blend_before(row)
        self._live[row, col] = logits_Khw

    def close(self) -> Stitched:
        """Blend what is left once all windows have been added, and return the result."""
        if self._blend is None:  # no pixel of the block is valid
            return self._region(logits_edge=1).empty_result()
        self._blend_before(self._grid.rows.count)
        self._live.clear()
        return self._blend.close()

    def _begin(self, logits_edge: int) -> None:
        """Start the blend once the first window shows how many positions each of them has."""
        core, lattice = self._core, self._lattice(logits_edge)
        self._strips = split_axis(self._grid.rows, core.row_off, core.row_end, lattice)[::-1]
        self._blend = self._make_blend(self._region(logits_edge))

    def _lattice(self, logits_edge: int) -> Lattice:
        return Lattice.of(self._grid.cols.window_px, logits_edge, self._align_corners)

    def _region(self, logits_edge: int) -> Region:
        core, cols, lattice = self._core, self._grid.cols, self._lattice(logits_edge)
        return Region(
            core=core,
            valid_HW=self._valid_HW,
            classes=self._classes,
            lattice=lattice,
            logits_edge=logits_edge,
            window_cols=cols.touching(core.col_off, core.col_end),
            column_spans=split_axis(cols, core.col_off, core.col_end, lattice),
            max_row_groups=max((len(strip.groups) for strip in self._strips), default=0),
        )

    def _blend_before(self, row: int) -> None:
        """Blend the strips that no window of this row or a later one touches."""
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

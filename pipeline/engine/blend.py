"""What every blend is given and gives: from the windows that cover a strip of a block to class ids
and confidences.

A pixel's value for a class is, in this order: the windows of a group of rows and a group of
columns added, row by row; interpolated between rows; the groups of rows added; interpolated between
columns; the groups of columns added. Single float32 multiplications and additions: bit-equal in
every blend, on every processor and however a scene is divided into blocks. Knows the region, not
how a strip is computed. Suffixes: H W pixels, K classes, T mask tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pipeline.engine.bilinear import Lattice, Span
from pipeline.scene import Rect
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Stitched, mask_dtype, nodata_value

Windows = Mapping[tuple[int, int], torch.Tensor]
"""The live windows by row and column of the window grid: float32 logits, K x logits_edge x
logits_edge."""


@dataclass(frozen=True)
class Region:
    """The core of a block, and how it is covered by windows."""

    core: Rect
    """The rectangle of the scene that is blended."""
    valid_HW: np.ndarray
    """bool, True = data, of the core."""
    classes: int
    lattice: Lattice
    """Where the pixels of a window sample its logits, in both directions."""
    logits_edge: int
    """The number of positions along an edge of a window's logits."""
    window_cols: range
    """The columns of the window grid that touch the core."""
    column_spans: list[Span]
    """The core's columns, from left to right."""
    max_row_groups: int
    """The largest number of row groups in any strip."""

    @property
    def tile_columns(self) -> int:
        """The number of mask tiles across the core."""
        return -(-self.core.width // MASK_TILE_PX)

    @property
    def tiles(self) -> int:
        """The number of mask tiles in the core."""
        return self.tile_columns * -(-self.core.height // MASK_TILE_PX)

    def empty_result(self) -> Stitched:
        """The result before the first strip: nodata, and nothing sampled."""
        ids_HW = np.full(self.valid_HW.shape, nodata_value(self.classes), mask_dtype(self.classes))
        shape_TK = (self.tiles, self.classes)
        return Stitched(ids_HW, np.zeros(shape_TK, np.int64), np.zeros(shape_TK, np.int64))


class Blend(Protocol):
    """The blend of one block, on one kind of device."""

    def strip(self, rows: Span, windows: Windows) -> None:
        """Blend these rows of the core. Windows without a valid pixel may be missing."""

    def close(self) -> Stitched:
        """The result, once every strip has been blended."""


MakeBlend = Callable[[Region], Blend]
"""Starts the blend of a block."""


def with_adjacent_columns(logits_Khw: torch.Tensor) -> torch.Tensor:
    """The logits, copied if neighbors in a row are not neighbors in memory."""
    return logits_Khw if logits_Khw.stride(2) == 1 else logits_Khw.contiguous()

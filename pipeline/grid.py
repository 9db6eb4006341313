"""Window origins, blocks, read rectangles and mask tiles of a scene's grid: pure integers.

The window grid is laid over the scene, never over a block: that is what makes results independent
of blocks. Knows no file, no network and no library.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.scene import Rect
from pipeline.settings import MASK_TILE_PX


@dataclass(frozen=True)
class Axis:
    """The window origins along one direction of a scene."""

    size_px: int
    window_px: int
    stride_px: int

    @property
    def count(self) -> int:
        beyond = max(0, self.size_px - self.window_px)
        return -(-beyond // self.stride_px) + 1

    def origin(self, index: int) -> int:
        """The last window is shifted back into the scene; a scene below the window has one."""
        return min(index * self.stride_px, max(0, self.size_px - self.window_px))

    def touching(self, start: int, end: int) -> range:
        """Indices of the windows that share a pixel with [start, end)."""
        first = max(0, -(-(start - self.window_px + 1) // self.stride_px))
        first = min(first, self.count - 1)
        last = min((end - 1) // self.stride_px, self.count - 1)
        if self.origin(self.count - 1) < end:  # the shifted one may begin before its multiple
            last = self.count - 1
        return range(first, last + 1)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The pixels, within the scene, of every window that touches [start, end)."""
        touching = self.touching(start, end)
        return self.origin(touching[0]), min(
            self.origin(touching[-1]) + self.window_px, self.size_px
        )

    def cuts(self, start: int, end: int) -> list[int]:
        """[start, end) cut at every window start and end: between two cuts the set of covering
        windows is constant: `touching` gives it."""
        marks = {start, end}
        for index in self.touching(start, end):
            origin = self.origin(index)
            marks.update(m for m in (origin, origin + self.window_px) if start < m < end)
        return sorted(marks)


@dataclass(frozen=True)
class WindowGrid:
    """The windows of one scene: `rows` by `cols` squares of `window` px."""

    rows: Axis
    cols: Axis

    @classmethod
    def of(cls, width: int, height: int, window_px: int, stride_px: int) -> WindowGrid:
        return cls(Axis(height, window_px, stride_px), Axis(width, window_px, stride_px))

    @property
    def count(self) -> int:
        return self.rows.count * self.cols.count

    def touching(self, core: Rect) -> tuple[range, range]:
        """Rows and columns of the windows that a block with this core computes."""
        return (
            self.rows.touching(core.row_off, core.row_end),
            self.cols.touching(core.col_off, core.col_end),
        )

    def computed(self, core: Rect) -> int:
        rows, cols = self.touching(core)
        return len(rows) * len(cols)

    def read_rect(self, core: Rect) -> Rect:
        """Core plus halo: the union of the windows that touch the core, within the scene."""
        top, bottom = self.rows.span(core.row_off, core.row_end)
        left, right = self.cols.span(core.col_off, core.col_end)
        return Rect(left, top, right - left, bottom - top)


def cores(width: int, height: int, core_width: int, core_height: int) -> list[Rect]:
    """The scene cut into block cores, row by row; smaller at the far edges."""
    return [
        Rect(col, row, min(core_width, width - col), min(core_height, height - row))
        for row in range(0, height, core_height)
        for col in range(0, width, core_width)
    ]


def mask_tiles(core: Rect) -> Iterator[tuple[int, int, Rect]]:
    """(tile_col, tile_row, rectangle in the scene) of each mask tile of a core, row by row.

    A core begins at a multiple of the mask tile, so that no mask tile belongs to two blocks.
    """
    for row in range(core.row_off, core.row_end, MASK_TILE_PX):
        for col in range(core.col_off, core.col_end, MASK_TILE_PX):
            width = min(MASK_TILE_PX, core.col_end - col)
            height = min(MASK_TILE_PX, core.row_end - row)
            yield col // MASK_TILE_PX, row // MASK_TILE_PX, Rect(col, row, width, height)

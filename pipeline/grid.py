"""Window origins, blocks, read rectangles and mask tiles of a scene's grid: pure integers.

The window grid is laid over the scene, never over a block: that is what makes results independent
of blocks. Knows no file, no network and no library.

One direction of a scene of 20 px under windows of 8 px with a stride of 5 px; the last window is
shifted back from 15 into the scene:

    pixel     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9
    window 0  0 0 0 0 0 0 0 0
    window 1            1 1 1 1 1 1 1 1
    window 2                      2 2 2 2 2 2 2 2
    window 3                          3 3 3 3 3 3 3 3
    core                c c c c c
    read      r r r r r r r r r r r r r

The core [5, 10) touches the windows 0 and 1, so it is read with a halo as [0, 13). Cut at 8, it
falls into two pieces: [5, 8) under both windows, [8, 10) under window 1 alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.scene import Rect, Scene
from pipeline.settings import MASK_TILE_PX, Settings


@dataclass(frozen=True)
class Axis:
    """The window origins along one direction of a scene."""

    size_px: int
    """Width or height of the scene."""
    window_px: int
    stride_px: int

    @property
    def count(self) -> int:
        """The number of windows."""
        beyond = max(0, self.size_px - self.window_px)
        return -(-beyond // self.stride_px) + 1

    @property
    def live(self) -> int:
        """The largest number of windows that cover one pixel, so that their logits are needed at
        once: those at multiples of the stride, and the last one, which is shifted back."""
        return -(-self.window_px // self.stride_px) + 1

    def origin(self, index: int) -> int:
        """The first pixel of a window. The last window is shifted back into the scene; a scene
        smaller than the window has one window, at 0."""
        return min(index * self.stride_px, max(0, self.size_px - self.window_px))

    def touching(self, start: int, end: int) -> range:
        """Indices of the windows that share a pixel with [start, end)."""
        first = max(0, -(-(start - self.window_px + 1) // self.stride_px))
        first = min(first, self.count - 1)
        last = min((end - 1) // self.stride_px, self.count - 1)
        if self.origin(self.count - 1) < end:  # shifted back, it may start before its multiple
            last = self.count - 1
        return range(first, last + 1)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The pixels [first, end) of the scene that the windows touching [start, end) cover."""
        touching = self.touching(start, end)
        return self.origin(touching[0]), min(
            self.origin(touching[-1]) + self.window_px, self.size_px
        )

    def cuts(self, start: int, end: int) -> list[int]:
        """[start, end) cut at every window start and end: the edges of the pieces. All pixels of a
        piece are covered by the same windows, which `touching` gives."""
        marks = {start, end}
        for index in self.touching(start, end):
            origin = self.origin(index)
            marks.update(m for m in (origin, origin + self.window_px) if start < m < end)
        return sorted(marks)


@dataclass(frozen=True)
class WindowGrid:
    """The square windows of one scene, in rows and columns."""

    rows: Axis
    """The vertical axis: its windows are the rows of windows."""
    cols: Axis
    """The horizontal axis."""

    @classmethod
    def of(cls, width: int, height: int, window_px: int, stride_px: int) -> WindowGrid:
        """The grid over width x height pixels."""
        return cls(Axis(height, window_px, stride_px), Axis(width, window_px, stride_px))

    @classmethod
    def over(cls, scene: Scene, settings: Settings) -> WindowGrid:
        """The grid of a job over one of its scenes."""
        return cls.of(scene.width, scene.height, settings.window, settings.stride)

    @property
    def count(self) -> int:
        """The number of windows."""
        return self.rows.count * self.cols.count

    def touching(self, core: Rect) -> tuple[range, range]:
        """Rows and columns of the windows that a block with this core computes."""
        return (
            self.rows.touching(core.row_off, core.row_end),
            self.cols.touching(core.col_off, core.col_end),
        )

    def computed(self, core: Rect) -> int:
        """The number of windows that a block with this core computes."""
        rows, cols = self.touching(core)
        return len(rows) * len(cols)

    def read_rect(self, core: Rect) -> Rect:
        """Core plus halo: the union of the windows that touch the core, within the scene."""
        top, bottom = self.rows.span(core.row_off, core.row_end)
        left, right = self.cols.span(core.col_off, core.col_end)
        return Rect(left, top, right - left, bottom - top)


def cores(width: int, height: int, core_width: int, core_height: int) -> list[Rect]:
    """A scene of width x height pixels cut into block cores, row by row; those at the right and
    bottom edges may be smaller."""
    return [
        Rect(col, row, min(core_width, width - col), min(core_height, height - row))
        for row in range(0, height, core_height)
        for col in range(0, width, core_width)
    ]


def mask_tiles(core: Rect) -> Iterator[tuple[int, int, Rect]]:
    """(tile_col, tile_row, rectangle in the scene) of each mask tile of a core, row by row.

    A core starts at a multiple of the mask tile, so that no mask tile belongs to two blocks.
    """
    for row in range(core.row_off, core.row_end, MASK_TILE_PX):
        for col in range(core.col_off, core.col_end, MASK_TILE_PX):
            width = min(MASK_TILE_PX, core.col_end - col)
            height = min(MASK_TILE_PX, core.row_end - row)
            yield col // MASK_TILE_PX, row // MASK_TILE_PX, Rect(col, row, width, height)

"""Windows, blocks and mask tiles equal their definitions, which are spelled out here."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.grid
from pipeline.grid import Axis, WindowGrid, cores, mask_tiles
from pipeline.scene import Rect


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    window = draw(st.integers(4, 80))
    return Axis(draw(st.integers(1, 300)), window, draw(st.integers(1, window)))


@st.composite
def axes_with_span(draw: st.DrawFn) -> tuple[Axis, int, int]:
    axis = draw(axes())
    start = draw(st.integers(0, axis.size_px - 1))
    return axis, start, draw(st.integers(start + 1, axis.size_px))


def definition(axis: Axis) -> list[int]:
    """The origins of windows: multiples of the stride, the last one shifted back into the scene."""
    last = max(0, axis.size_px - axis.window_px)
    return sorted({*range(0, last, axis.stride_px), last})


@given(axes())
def test_origins_are_multiples_of_the_stride_and_the_last_is_shifted_back(axis: Axis) -> None:
    assert [axis.origin(i) for i in range(axis.count)] == definition(axis)


@given(axes_with_span())
def test_touching_windows_are_those_that_overlap_and_span_what_they_read(
    case: tuple[Axis, int, int],
) -> None:
    axis, start, end = case
    overlap = [i for i, o in enumerate(definition(axis)) if o < end and o + axis.window_px > start]
    assert list(axis.touching(start, end)) == overlap
    assert axis.span(start, end) == (
        definition(axis)[overlap[0]],
        min(definition(axis)[overlap[-1]] + axis.window_px, axis.size_px),
    )


@given(axes_with_span())
def test_between_cuts_the_covering_windows_are_constant(case: tuple[Axis, int, int]) -> None:
    axis, start, end = case
    cuts = axis.cuts(start, end)
    assert (cuts[0], cuts[-1]) == (start, end)
    for left, right in pairwise(cuts):
        for px in range(left, right):
            covering = [i for i, o in enumerate(definition(axis)) if o <= px < o + axis.window_px]
            assert list(axis.touching(left, right)) == covering


def windows_of(grid: WindowGrid) -> dict[tuple[int, int], Rect]:
    """Every window by its row and column, clipped to the scene."""
    return {
        (row, col): Rect(
            x,
            y,
            min(grid.cols.window_px, grid.cols.size_px - x),
            min(grid.rows.window_px, grid.rows.size_px - y),
        )
        for row, y in enumerate(definition(grid.rows))
        for col, x in enumerate(definition(grid.cols))
    }


def covered(rects: Iterable[Rect], grid: WindowGrid) -> np.ndarray:
    """bool (height, width): True for pixels in any of the rects."""
    mask = np.zeros((grid.rows.size_px, grid.cols.size_px), bool)
    for rect in rects:
        assert rect.width > 0 < rect.height
        assert min(rect.col_off, rect.row_off) >= 0
        mask[rect.row_off : rect.row_end, rect.col_off : rect.col_end] = True
    return mask


@st.composite
def small_grids(draw: st.DrawFn) -> WindowGrid:
    window = draw(st.integers(4, 30))
    sides = st.integers(1, 4 * window)
    return WindowGrid.of(draw(sides), draw(sides), window, draw(st.integers(window // 4, window)))


@settings(max_examples=50, deadline=None)
@given(small_grids(), st.integers(1, 5), st.integers(1, 5))
def test_blocks_compute_and_read_the_windows_that_touch_them(
    grid: WindowGrid, across: int, down: int
) -> None:
    windows, width, height = windows_of(grid), grid.cols.size_px, grid.rows.size_px
    assert grid.count == len(windows)
    assert covered(windows.values(), grid).all()
    computed = set()
    for core in cores(width, height, -(-width // across), -(-height // down)):
        inside = covered([core], grid)
        needed = {
            place: window
            for place, window in windows.items()
            if inside[window.row_off : window.row_end, window.col_off : window.col_end].any()
        }
        touching_rows, touching_cols = grid.touching(core)
        assert {(row, col) for row in touching_rows for col in touching_cols} == needed.keys()
        assert grid.computed(core) == len(needed)
        read = covered([grid.read_rect(core)], grid)
        assert np.array_equal(read, covered(needed.values(), grid))
        computed |= needed.keys()
    assert computed == windows.keys()


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 5), st.integers(1, 5))
def test_cores_and_mask_tiles_cover_every_pixel_once(w: int, h: int, cw: int, ch: int) -> None:
    counts = np.zeros((h, w), np.uint8)
    seen = set()
    for core in cores(w, h, cw * 512, ch * 512):
        for tile_col, tile_row, rect in mask_tiles(core):
            assert (rect.col_off, rect.row_off) == (tile_col * 512, tile_row * 512)
            assert (tile_col, tile_row) not in seen
            seen.add((tile_col, tile_row))
            counts[rect.row_off : rect.row_end, rect.col_off : rect.col_end] += 1
    assert (counts == 1).all()


def test_the_modules_drawing_is_what_the_code_computes() -> None:
    """The drawing in the module's docstring has the windows, core and read span of an axis."""
    axis, drawn = Axis(20, 8, 5), (pipeline.grid.__doc__ or "").splitlines()

    def line(label: str, mark: str, start: int, end: int) -> str:
        return f"    {label:10}{'  ' * start}{' '.join(mark * (end - start))}"

    spans = [(f"window {i}", f"{i}", axis.origin(i)) for i in range(axis.count)]
    expected = [line(label, mark, start, start + 8) for label, mark, start in spans]
    expected += [line("core", "c", 5, 10), line("read", "r", *axis.span(5, 10))]
    first = drawn.index(expected[0])
    assert drawn[first : first + len(expected)] == expected
    assert (axis.touching(5, 10), axis.span(5, 10)) == (range(2), (0, 13))
    assert axis.cuts(5, 10) == [5, 8, 10]


@given(axes())
def test_no_more_windows_are_live_than_the_axis_says(axis: Axis) -> None:
    covering = np.zeros(axis.size_px, int)
    for origin in definition(axis):
        covering[origin : origin + axis.window_px] += 1
    assert covering.max() <= axis.live


def test_a_whole_scene_computes_no_window_twice() -> None:
    grid = WindowGrid.of(10_980, 10_980, 512, 384)
    assert grid.computed(Rect(0, 0, 10_980, 10_980)) == grid.count == 29 * 29


def test_a_block_of_twelve_strides_costs_17_percent_more() -> None:
    grid = WindowGrid.of(4608 * 10, 4608 * 10, 512, 384)
    assert grid.computed(Rect(4608, 4608, 4608, 4608)) == 13 * 13

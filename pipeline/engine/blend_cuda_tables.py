"""The tables that tell the kernels of `blend_triton.py` what to add, and the legend to their slots,
by which this file writes and the kernels read.

A table with a header is a row of int64 numbers: first the header, whose slots hold the places in
the table at which its parts start, then the parts. Other tables are int64 arrays of two dimensions.

All positions are those of the sums (K classes, Y, X), which the first kernel writes and the second
reads: along Y the positions of the strip's groups of rows, one group after the other, and along X
those of the region's groups of columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import triton.language as tl

from pipeline.engine.bilinear import (
    Span,
    WindowGroup,
    member_starts,
    members_table,
    position_starts,
)

# As tl.constexpr, for kernels can use no other numbers of a module.
MEMBERS, SUM_ROWS, INDICES, ADDRESSES, GROUPS, PIXELS, HEADER = map(tl.constexpr, range(7))
"""The header of a strip's table: where its four parts start; the numbers of groups and pixels."""
COLUMN_MEMBERS, COLUMN_INDICES, COLUMN_OFFSETS, COLUMN_HEADER = map(tl.constexpr, range(4))
"""The header of the columns' table: where its parts start."""

WINDOW, POSITION, MEMBER = map(tl.constexpr, range(3))
"""A member of a group: its row or column of windows, counted from the table's first; its position
at which the group's position 0 is; the length of such an entry, as the last name of each legend."""
ROW_MEMBERS, ROW_MEMBERS_END, ROW_POSITION, SUM_ROW = map(tl.constexpr, range(4))
"""A row of the sums: its group's members from, to; its place in its group."""
ADDRESS, CLASS_STEP, ROW_STEP, WINDOW_LOGITS = map(tl.constexpr, range(4))
"""A window's logits: the address; the steps, in values, from class to class and row to row."""

SUM_START, SUM_END, GROUP_START, SUM_MEMBERS, SUM_MEMBERS_END, SUM_TILE = map(
    tl.constexpr, range(6)
)
"""A program of `sum_windows`: positions from, to; where their group starts; its members from, to.
Its positions may end before: they are at most as many as a program takes."""
PIXEL_START, PIXEL_END, PIXEL_GROUPS, PIXEL_GROUPS_END, PIXEL_TILE = map(tl.constexpr, range(5))
"""A program of `decide`: columns of the core from, to, of which it takes the first; their groups
from, to."""


@dataclass(frozen=True)
class PixelTiles:
    """Columns of the core, shared out among programs of `decide`."""

    tiles: np.ndarray
    """int64 (programs, PIXEL_TILE)."""
    windows: np.ndarray
    """int64 (programs): the number of columns of windows that cover these pixels."""


def strip_table(rows: Span, addresses: np.ndarray) -> np.ndarray:
    """The table of a strip, int64.

    Its parts: the members (n, MEMBER), group after group; the rows of the sums (Y, SUM_ROW); the
    indices (groups, pixels), which row of the sums each pixel samples in each group; the addresses
    (windows, WINDOW_LOGITS), as given, row by row from the strip's first row of windows on.
    """
    first_window = min(member.window for group in rows.groups for member in group.members)
    table = np.zeros(HEADER, np.int64)
    table[GROUPS], table[PIXELS] = len(rows.groups), rows.length
    parts = {
        MEMBERS.value: members_table(rows.groups, first_window),
        SUM_ROWS.value: _sum_rows(rows.groups),
        INDICES.value: _indices(rows.groups),
        ADDRESSES.value: addresses,
    }
    return _with_parts(table, parts)


def column_table(spans: Sequence[Span], first_window: int) -> np.ndarray:
    """The table of the region's columns, int64.

    Its parts: the members (n, MEMBER), group after group; the indices (pixels of all groups), which
    column of the sums each samples; the offsets (groups), what to add to a column of the core to
    find it among the indices.
    """
    groups = groups_of(spans)
    parts = {
        COLUMN_MEMBERS.value: members_table(groups, first_window),
        COLUMN_INDICES.value: _indices(groups),
        COLUMN_OFFSETS.value: _offsets(spans),
    }
    return _with_parts(np.zeros(COLUMN_HEADER, np.int64), parts)


def sum_tiles(groups: Sequence[WindowGroup], step: int) -> np.ndarray:
    """The programs across a row of the sums, each of at most `step` positions of one group: int64
    (programs, SUM_TILE)."""
    members, positions = member_starts(groups), position_starts(groups)
    tiles = []
    for group in range(len(groups)):
        for start in range(positions[group], positions[group + 1], step):
            tile = np.zeros(SUM_TILE, np.int64)
            tile[SUM_START], tile[SUM_END] = start, positions[group + 1]
            tile[GROUP_START] = positions[group]
            tile[SUM_MEMBERS], tile[SUM_MEMBERS_END] = members[group], members[group + 1]
            tiles.append(tile)
    return np.stack(tiles)


def pixel_tiles(spans: Sequence[Span], step: int, at: int, pixels: int, single: bool) -> PixelTiles:
    """The programs across a row of pixels, each of at most `pixels` pixels of one span.

    Only columns of the scene that leave `at` when divided by `step`, and only spans with one group
    (single) or with several.
    """
    tiles, windows, groups_before, left = [], [], 0, spans[0].start
    for span in spans:
        if (len(span.groups) == 1) == single:
            first = span.start + (at - span.start) % step
            for x in range(first, span.end, step * pixels):
                tile = np.zeros(PIXEL_TILE, np.int64)
                tile[PIXEL_START], tile[PIXEL_END] = x - left, span.end - left
                tile[PIXEL_GROUPS] = groups_before
                tile[PIXEL_GROUPS_END] = groups_before + len(span.groups)
                tiles.append(tile)
                windows.append(span.windows)
        groups_before += len(span.groups)
    return PixelTiles(np.array(tiles, np.int64).reshape(-1, PIXEL_TILE), np.array(windows))


def groups_of(spans: Sequence[Span]) -> list[WindowGroup]:
    """The groups of all spans, in their order."""
    return [group for span in spans for group in span.groups]


def _sum_rows(groups: Sequence[WindowGroup]) -> np.ndarray:
    starts, positions = member_starts(groups), position_starts(groups)
    table = np.zeros((positions[-1], SUM_ROW), np.int64)
    for number, group in enumerate(groups):
        rows = table[positions[number] : positions[number + 1]]
        rows[:, ROW_MEMBERS], rows[:, ROW_MEMBERS_END] = starts[number], starts[number + 1]
        rows[:, ROW_POSITION] = np.arange(group.positions)
    return table


def _indices(groups: Sequence[WindowGroup]) -> np.ndarray:
    """The positions of the sums that the pixels sample, group after group."""
    starts = position_starts(groups)[:-1]
    return np.concatenate([start + g.index for start, g in zip(starts, groups, strict=True)])


def _offsets(spans: Sequence[Span]) -> np.ndarray:
    """What to add to a column of the core to find it in `_indices`, for each group."""
    offsets, pixels = [], 0
    for span in spans:
        for _ in span.groups:
            offsets.append(pixels - (span.start - spans[0].start))
            pixels += span.length
    return np.array(offsets)


def _with_parts(header: np.ndarray, parts: dict[int, np.ndarray]) -> np.ndarray:
    """The header, the places of the parts written to its slots, and the parts."""
    place = len(header)
    for slot, part in parts.items():
        header[slot] = place
        place += part.size
    return np.concatenate([header, *(part.ravel() for part in parts.values())])

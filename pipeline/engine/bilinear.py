"""How the pixels of one direction of a scene sample the low-resolution logits of its windows.

Pixel p of a window samples position (p + 0.5) * logits_edge / window_px - 0.5 of its logits, as
F.interpolate does with align_corners=False; positions beyond an edge are clamped to it. Integers up
to the weight, so that it depends on nothing but the pixel's place in its window. Knows no library
but numpy, and treats rows and columns alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline.grid import Axis


class Member(NamedTuple):
    """One window of a group."""

    window: int
    """The window's index on the axis."""
    position: int
    """The position in its own logits at which the group's position 0 is: from -1, which is clamped
    to 0, as the one past the end is to the last."""


@dataclass(frozen=True)
class WindowGroup:
    """Windows that share their sampling positions: their logits can be added before upsampling."""

    members: tuple[Member, ...]
    """The windows, in ascending order of their indices."""
    index: np.ndarray
    """int64 (pixels): the lower of the two positions between which each pixel samples."""
    weight: np.ndarray
    """float32 (pixels): how far each pixel is from `index` to `index + 1`, 0 to 1."""

    @property
    def positions(self) -> int:
        """The number of positions that the pixels sample."""
        return int(self.index[-1]) + 2


@dataclass(frozen=True)
class Span:
    """The pixels [start, end) of an axis, all of them covered by the same windows."""

    start: int
    end: int
    groups: tuple[WindowGroup, ...]
    """In the order of their first windows, which is the order in which they are added."""

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def windows(self) -> int:
        """The number of windows that cover each pixel."""
        return sum(len(group.members) for group in self.groups)


def split_axis(axis: Axis, start: int, end: int, logits_edge: int) -> list[Span]:
    """Split [start, end) wherever a window starts or ends.

    logits_edge: the number of positions along an edge of a window's logits.
    """
    return [_span(axis, *pixels, logits_edge) for pixels in pairwise(axis.cuts(start, end))]


def members_table(groups: Sequence[WindowGroup], first_window: int) -> np.ndarray:
    """The members of all groups, one after the other, int64 (n, 2): the window, counted from
    `first_window`, and its `position`."""
    return np.array([member for group in groups for member in group.members]) - (first_window, 0)


def member_starts(groups: Sequence[WindowGroup]) -> np.ndarray:
    """Rows of `members_table` at which each group starts, and where the last one ends: int64
    (groups + 1)."""
    return np.cumsum([0, *(len(group.members) for group in groups)])


def position_starts(groups: Sequence[WindowGroup]) -> np.ndarray:
    """Where each group starts if their positions are laid one after the other, and where the last
    one ends: int64 (groups + 1)."""
    return np.cumsum([0, *(group.positions for group in groups)])


def _span(axis: Axis, start: int, end: int, logits_edge: int) -> Span:
    whole = axis.window_px % logits_edge == 0
    scale = axis.window_px // logits_edge if whole else None
    by_phase: dict[int, list[int]] = {}
    for window in axis.touching(start, end):
        origin = axis.origin(window)
        by_phase.setdefault(origin % scale if scale else origin, []).append(window)
    pixels = range(start, end)
    groups = (_group(axis, windows, pixels, logits_edge) for windows in by_phase.values())
    return Span(start, end, tuple(groups))


def _group(axis: Axis, windows: list[int], pixels: range, logits_edge: int) -> WindowGroup:
    samples = [_samples(axis, window, pixels, logits_edge) for window in windows]
    index, weight = samples[0]
    starts = (int(index[0]) for index, _ in samples)
    members = tuple(Member(*pair) for pair in zip(windows, starts, strict=True))
    return WindowGroup(members, index - index[0], weight)


def _samples(
    axis: Axis, window: int, pixels: range, logits_edge: int
) -> tuple[np.ndarray, np.ndarray]:
    """Floor and remainder of the positions that pixels sample in a window's logits."""
    place = np.arange(pixels.start, pixels.stop) - axis.origin(window)
    whole = 2 * axis.window_px
    index, rest = np.divmod((2 * place + 1) * logits_edge - axis.window_px, whole)
    return index, (rest / whole).astype(np.float32)

"""How the pixels of one direction of a scene sample the low-resolution logits of its windows.

Integers up to the weight, so that it depends on nothing but the pixel's place in its window. Knows
no library but numpy, and treats rows and columns alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np

from pipeline.grid import Axis


class Lattice(NamedTuple):
    """Where the pixels of a window sample its logits: pixel p at (step * p + first) / unit.

    As F.interpolate has it. With align_corners=False: at (p + 0.5) * logits_edge / window_px - 0.5;
    positions beyond an edge are clamped to it. With align_corners=True: at
    p * (logits_edge - 1) / (window_px - 1), so that corners are on corners.
    """

    step: int
    first: int
    unit: int
    period_px: int
    """Windows whose origins differ by a multiple of it sample at the same positions, whole ones
    apart."""

    @classmethod
    def of(cls, window_px: int, logits_edge: int, align_corners: bool) -> Self:
        """window_px: the edge of a window; logits_edge: the number of positions along it."""
        if align_corners:
            last_px = max(window_px - 1, 1)
            return cls(logits_edge - 1, 0, last_px, last_px)
        is_whole = window_px % logits_edge == 0
        period_px = window_px // logits_edge if is_whole else window_px
        return cls(2 * logits_edge, logits_edge - window_px, 2 * window_px, period_px)

    @property
    def is_regular(self) -> bool:
        """Whether four pixels lie between two positions, at 1/8, 3/8, 5/8 and 7/8 of the way."""
        return self.unit == 4 * self.step and 2 * self.first == -3 * self.step

    def samples(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lower of the two positions between which each pixel samples, int64, and its weight
        for the other one, float32. pixels: int64, counted from the window's first."""
        index, rest = np.divmod(self.step * pixels + self.first, self.unit)
        return index, (rest / self.unit).astype(np.float32)


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


def split_axis(axis: Axis, start: int, end: int, lattice: Lattice) -> list[Span]:
    """Split [start, end) wherever a window starts or ends. lattice: that of every window."""
    return [_span(axis, range(*pixels), lattice) for pixels in pairwise(axis.cuts(start, end))]


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


def _span(axis: Axis, pixels: range, lattice: Lattice) -> Span:
    by_phase: dict[int, list[int]] = {}
    for window in axis.touching(pixels.start, pixels.stop):
        by_phase.setdefault(axis.origin(window) % lattice.period_px, []).append(window)
    groups = (_group(axis, windows, pixels, lattice) for windows in by_phase.values())
    return Span(pixels.start, pixels.stop, tuple(groups))


def _group(axis: Axis, windows: list[int], pixels: range, lattice: Lattice) -> WindowGroup:
    places = np.arange(pixels.start, pixels.stop)
    samples = [lattice.samples(places - axis.origin(window)) for window in windows]
    index, weight = samples[0]
    starts = (int(index[0]) for index, _ in samples)
    members = tuple(Member(*pair) for pair in zip(windows, starts, strict=True))
    return WindowGroup(members, index - index[0], weight)

"""How the pixels of one direction of a scene sample the low-resolution logits of its windows.

Pixel p of a window reads position (p + 0.5) * low / window - 0.5 of its logits, as F.interpolate
does with align_corners=False; positions beyond an edge are clamped to it. Whole numbers up to the
weight, so that it depends on nothing but the pixel's place in its window. Knows no library but
numpy; rows and columns are the same to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.grid import Axis


@dataclass(frozen=True)
class Group:
    """Windows that share their sampling positions: their logits can be added before upsampling."""

    members: tuple[tuple[int, int], ...]
    """The windows' indices on the axis, ascending, each with the position in its own logits that
    the group's position 0 is: from -1, which stands for 0, as the one past the end for the last."""
    index: np.ndarray
    weight: np.ndarray
    """int64 and float32, of each pixel: its value is that at `index`, and `weight` of the way to
    that at `index + 1`."""

    @property
    def positions(self) -> int:
        """How many positions the pixels touch."""
        return int(self.index[-1]) + 2


@dataclass(frozen=True)
class Segment:
    """The pixels [start, end) of an axis, all of them covered by the same windows."""

    start: int
    end: int
    groups: tuple[Group, ...]
    """In the order of their first windows: that in which they are added."""

    @property
    def length(self) -> int:
        return self.end - self.start

    @property
    def windows(self) -> int:
        return sum(len(group.members) for group in self.groups)


def segments(axis: Axis, start: int, end: int, low: int) -> list[Segment]:
    """[start, end) cut wherever a window starts or ends; windows have `low` positions each."""
    cuts = axis.cuts(start, end)
    return [_segment(axis, left, right, low) for left, right in pairwise(cuts)]


def _segment(axis: Axis, start: int, end: int, low: int) -> Segment:
    scale = axis.window_px // low if axis.window_px % low == 0 else None
    alike: dict[int, list[int]] = {}
    for window in axis.touching(start, end):
        origin = axis.origin(window)
        alike.setdefault(origin % scale if scale else origin, []).append(window)
    return Segment(start, end, tuple(_group(axis, m, (start, end), low) for m in alike.values()))


def _group(axis: Axis, windows: list[int], pixels: tuple[int, int], low: int) -> Group:
    first = [_positions(axis, window, pixels, low) for window in windows]
    index, weight = first[0]
    members = zip(windows, (int(index[0]) for index, _ in first), strict=True)
    return Group(tuple(members), index - index[0], weight)


def _positions(
    axis: Axis, window: int, pixels: tuple[int, int], low: int
) -> tuple[np.ndarray, np.ndarray]:
    """Floor and remainder of the sampled positions."""
    place = np.arange(*pixels) - axis.origin(window)
    whole = 2 * axis.window_px
    index, rest = np.divmod((2 * place + 1) * low - axis.window_px, whole)
    return index, (rest / whole).astype(np.float32)

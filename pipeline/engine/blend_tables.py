"""What the loops of `blend_kernel.py` work from: tables of a strip's rows and of a chunk's columns.

Where the scale is 4 and all windows of some columns share their positions, four pixels lie between
two of these, one of each phase: the lattice. The other columns are scattered: each looks up where
it samples. `narrow` are the positions of the low resolution across, those of the lattice first;
columns count from the chunk's first. Knows neither torch nor numba.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.engine.bilinear import Segment
from pipeline.engine.blend import SAMPLE_AT, SAMPLE_STEP, Region
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import mask_dtype

PHASES = 4


class Rows(NamedTuple):
    """A strip's rows: groups of windows, and what each row of pixels samples in them."""

    windows: np.ndarray
    """int64 (row of windows, column of windows, 4): where the logits begin; bytes from class to
    class and from row to row; how many rows."""
    members: np.ndarray
    """int64 (n, 2): row in `windows`, its first position; group after group."""
    groups: np.ndarray
    """int64 (G + 1): where each group's members begin, and where the last one's end."""
    indices: np.ndarray
    weights: np.ndarray
    """int64 and float32 (G, rows)."""
    slots: np.ndarray
    """int64 (rows): where the row's mask tiles begin; -1 where no confidence is sampled."""


class Columns(NamedTuple):
    """A chunk of a core's columns."""

    members: np.ndarray
    """int64 (n, 2): column in `windows`, its first position."""
    runs: np.ndarray
    """int64 (n, 4): narrow positions from, to; members from, to."""
    places: np.ndarray
    """int64 (n, 3): columns from, to; where in `line`: four to a narrow position of the lattice,
    then the scattered ones."""
    phases: np.ndarray
    """int64 (lattice): which of the four pixels after a narrow position is sampled."""
    indices: np.ndarray
    weights: np.ndarray
    """int64 and float32 (terms, scattered): narrow positions. A column with fewer terms than
    others has them at the last two, which are 0."""
    samples: np.ndarray
    """int64 (n, 3): column, its place in a row of mask tiles, and where among the exponentials."""


class Scratch(NamedTuple):
    """Room to work in; 0 at first, but the shares."""

    loaded: np.ndarray
    """int64 (G): the last row that is in `sums`."""
    sums: np.ndarray
    """float32 (G, 2, K, narrow): two successive rows of the windows' sum."""
    narrow: np.ndarray
    """float32 (narrow + 2): a row of pixels of one class, and two zeros."""
    best: np.ndarray
    ids: np.ndarray
    """float32 and int32 (4, lattice): by phase."""
    values: np.ndarray
    values_best: np.ndarray
    values_ids: np.ndarray
    """float32, float32 and int32 (scattered)."""
    shares: np.ndarray
    """float32 (lattice + scattered): 1 / windows that cover the pixel."""
    exponentials: np.ndarray
    """float32 (3, lattice + scattered): sum; of the lattice's samples: best value and weight."""
    line: np.ndarray
    """As the ids, (4 * lattice + scattered)."""


class Out(NamedTuple):
    """What is written, and where."""

    valid: np.ndarray
    """bool (rows, columns), of the strip and the chunk."""
    corner: np.ndarray
    """int64 (2): the row and the column of the core where these begin."""
    ids: np.ndarray
    """uint8 or uint16, of the whole core."""
    confidence: np.ndarray
    samples: np.ndarray
    """int64 (mask tiles * K)."""


class Chunk:
    """Some neighbouring column segments of a region."""

    def __init__(self, region: Region, segments: list[Segment]) -> None:
        self.start, self.end = segments[0].start, segments[-1].end
        self._region = region
        exact = region.window_px == PHASES * region.low
        lattice = [s for s in segments if exact and len(s.groups) == 1]
        scattered = [s for s in segments if not (exact and len(s.groups) == 1)]
        groups = [group for s in (*lattice, *scattered) for group in s.groups]
        self._narrow = np.cumsum([0, *(group.positions for group in groups)])
        self._positions = int(self._narrow[len(lattice)])
        """Of the lattice."""
        member_ends = np.cumsum([0, *(len(group.members) for group in groups)])
        ends = self._narrow[:-1], self._narrow[1:], member_ends[:-1], member_ends[1:]
        self._places: list[tuple[int, int, int]] = []
        self._samples: list[np.ndarray] = []
        self._covering: list[np.ndarray] = []
        phases = [
            self._add_lattice(s, int(at)) for s, at in zip(lattice, self._narrow, strict=False)
        ]
        index, weight = self._add_scattered(scattered, len(lattice))
        self.columns = Columns(
            members=members_of([*lattice, *scattered]) - (region.windows.start, 0),
            runs=np.stack(ends, axis=1),
            places=np.array(self._places),
            phases=np.concatenate([np.zeros(0, np.int64), *phases]),
            indices=index,
            weights=weight,
            samples=np.concatenate(self._samples),
        )

    def _add_lattice(self, segment: Segment, position: int) -> np.ndarray:
        """The phase that is sampled, of each of the segment's positions."""
        group = segment.groups[0]
        phase = int(group.weight[0] * PHASES)
        self._add(segment, PHASES * position + phase, position + group.index)
        self._covering.append(np.full(group.positions, segment.windows))
        return np.full(group.positions, (phase + SAMPLE_AT - segment.start) % PHASES)

    def _add_scattered(self, segments: list[Segment], run: int) -> tuple[np.ndarray, np.ndarray]:
        terms = max((len(s.groups) for s in segments), default=0)
        shape = (terms, sum(s.length for s in segments))
        index, weight = np.full(shape, self._narrow[-1]), np.zeros(shape, np.float32)
        at = 0
        for segment in segments:
            self._add(
                segment,
                PHASES * self._positions + at,
                self._positions + at + np.arange(segment.length),
            )
            self._covering.append(np.full(segment.length, segment.windows))
            here = slice(at, at + segment.length)
            for term, group in enumerate(segment.groups):
                index[term, here] = self._narrow[run] + group.index
                weight[term, here] = group.weight
                run += 1
            at += segment.length
        return index, weight

    def _add(self, segment: Segment, line: int, exponential: np.ndarray) -> None:
        """Where the segment's pixels are in `line`, and each of them among the exponentials."""
        self._places.append((segment.start - self.start, segment.end - self.start, line))
        pixels = np.arange(segment.start, segment.end)
        slots = (pixels - self._region.core.col_off) // MASK_TILE_PX * self._region.classes
        table = np.stack([pixels - self.start, slots, exponential], axis=1)
        self._samples.append(table[pixels % SAMPLE_STEP == SAMPLE_AT])

    def scratch(self, rows: Segment) -> Scratch:
        """Room for a strip of these rows; anew, for all chunks at once may be too much to keep."""
        lattice, scattered = self._positions, self.columns.indices.shape[1]
        groups, pixels, narrow = len(rows.groups), lattice + scattered, int(self._narrow[-1])
        return Scratch(
            loaded=np.zeros(groups, np.int64),
            sums=np.zeros((groups, 2, self._region.classes, narrow), np.float32),
            narrow=np.zeros(narrow + 2, np.float32),
            best=np.zeros((PHASES, lattice), np.float32),
            ids=np.zeros((PHASES, lattice), np.int32),
            values=np.zeros(scattered, np.float32),
            values_best=np.zeros(scattered, np.float32),
            values_ids=np.zeros(scattered, np.int32),
            shares=(1 / (rows.windows * np.concatenate(self._covering))).astype(np.float32),
            exponentials=np.zeros((3, pixels), np.float32),
            line=np.zeros(PHASES * lattice + scattered, mask_dtype(self._region.classes)),
        )


def members_of(segments: list[Segment]) -> np.ndarray:
    return np.array([m for segment in segments for group in segment.groups for m in group.members])

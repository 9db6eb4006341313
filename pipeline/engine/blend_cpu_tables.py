"""What the loops of `blend_loops.py` work from: tables of a strip's rows and of a chunk's columns.

Columns are regular if all their windows share their positions and four pixels lie between two of
these, one of each phase (`Lattice.is_regular`): the loops need not look up where they sample. All
other columns are irregular: each has the position that it samples in a table. Of the low-resolution
positions across, those of the regular columns come first. Columns count from the chunk's first.
Knows neither torch nor numba.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.engine.bilinear import Span, member_starts, members_table, position_starts
from pipeline.engine.blend import Region
from pipeline.engine.confidence import SAMPLE_AT, SAMPLE_STEP
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import mask_dtype

PHASES = 4

ADDRESS, CLASS_STEP, ROW_STEP, EDGE = range(4)
"""A window in `Rows.windows`: where its logits start; bytes from class to class and from row to
row; the number of its rows, and of its columns."""
WINDOW, POSITION = range(2)
"""A member: its row or column in `Rows.windows`; its position at which the group's position 0
is."""
RUN_START, RUN_END, RUN_MEMBERS, RUN_MEMBERS_END = range(4)
"""The positions of a group of columns from, to; its members from, to."""
PLACE_START, PLACE_END, PLACE_IN_LINE = range(3)
"""A span of pixels: columns from, to; where they are in `Scratch.line`."""
SAMPLE_COLUMN, SAMPLE_SLOT, SAMPLE_EXPONENTIAL = range(3)
"""A sampled column: the column; its place in a row of mask tiles; its place among the
exponentials."""


class Rows(NamedTuple):
    """A strip's rows: groups of windows, and what each row of pixels samples in them."""

    windows: np.ndarray
    """int64 (rows of windows, columns of windows, 4): ADDRESS to EDGE."""
    members: np.ndarray
    """int64 (n, 2): WINDOW, POSITION; group after group."""
    groups: np.ndarray
    """int64 (G + 1): where each group's members start, and where the last one's end."""
    indices: np.ndarray
    """int64 (G, rows): the upper of the two positions between which a row samples."""
    weights: np.ndarray
    """float32 (G, rows): of the lower of them."""
    slots: np.ndarray
    """int64 (rows): where the row's mask tiles start; -1 if no confidence is sampled."""


class Columns(NamedTuple):
    """A chunk of a core's columns."""

    members: np.ndarray
    """int64 (n, 2): WINDOW, POSITION; group after group."""
    runs: np.ndarray
    """int64 (groups, 4): RUN_START to RUN_MEMBERS_END."""
    places: np.ndarray
    """int64 (spans, 3): PLACE_START to PLACE_IN_LINE."""
    phases: np.ndarray
    """int64 (regular): which of the four pixels after a position is sampled."""
    indices: np.ndarray
    """uint32 (terms, irregular): the left of the two positions between which a column samples. A
    column with fewer terms than others has them at the last two positions, which are 0."""
    weights: np.ndarray
    """float32 (terms, irregular): of the right of them."""
    samples: np.ndarray
    """int64 (n, 3): SAMPLE_COLUMN to SAMPLE_EXPONENTIAL."""


class Scratch(NamedTuple):
    """Memory to work in; zeros at first, except the shares."""

    loaded: np.ndarray
    """int64 (G): the last row that is in `sums`."""
    sums: np.ndarray
    """float32 (G, 2, K, positions): two successive rows of the windows' sum."""
    low_row: np.ndarray
    """float32 (positions + 2): a row of pixels of one class before it is interpolated across, and
    two zeros."""
    best: np.ndarray
    """float32 (4, regular): the highest value so far, by phase."""
    ids: np.ndarray
    """int32 (4, regular): its class."""
    values: np.ndarray
    """float32 (irregular): the values of one class."""
    values_best: np.ndarray
    """float32 (irregular): the highest value so far."""
    values_ids: np.ndarray
    """int32 (irregular): its class."""
    shares: np.ndarray
    """float32 (regular + irregular): 1 / windows that cover the pixel."""
    exponentials: np.ndarray
    """float32 (3, regular + irregular): their sum; of the regular samples, also the best value and
    the weight."""
    line: np.ndarray
    """Class ids in the dtype of the mask (4 * regular + irregular): four to a position, then the
    irregular columns."""


class Out(NamedTuple):
    """What is written, and where."""

    valid: np.ndarray
    """bool (rows, columns), True = data, of the strip and the chunk."""
    corner: np.ndarray
    """int64 (2): the row and the column of the core at which these start."""
    ids: np.ndarray
    """uint8 or uint16 (H, W), of the whole core."""
    confidence: np.ndarray
    """int64 (mask tiles * K)."""
    samples: np.ndarray
    """int64 (mask tiles * K)."""


class Chunk:
    """Some neighboring column spans of a region."""

    def __init__(self, region: Region, spans: list[Span]) -> None:
        self.start, self.end = spans[0].start, spans[-1].end
        self._region = region
        in_phases = region.lattice.is_regular
        regular = [span for span in spans if in_phases and len(span.groups) == 1]
        irregular = [span for span in spans if not (in_phases and len(span.groups) == 1)]
        groups = [group for span in (*regular, *irregular) for group in span.groups]
        members, self._starts = member_starts(groups), position_starts(groups)
        runs = self._starts[:-1], self._starts[1:], members[:-1], members[1:]
        self._regular = int(self._starts[len(regular)])
        """The number of positions of the regular columns."""
        self._places: list[tuple[int, int, int]] = []
        self._samples: list[np.ndarray] = []
        self._covering: list[np.ndarray] = []
        phases = [
            self._add_regular(span, int(start))
            for span, start in zip(regular, self._starts, strict=False)
        ]
        indices, weights = self._add_irregular(irregular, len(regular))
        self.columns = Columns(
            members=members_table(groups, region.window_cols.start),
            runs=np.stack(runs, axis=1),
            places=np.array(self._places),
            phases=np.concatenate([np.zeros(0, np.int64), *phases]),
            indices=indices,
            weights=weights,
            samples=np.concatenate(self._samples),
        )

    def scratch(self, rows: Span) -> Scratch:
        """Memory for a strip of these rows; allocated for each strip, since keeping that of all
        chunks at once may take too much."""
        regular, irregular = self._regular, self.columns.indices.shape[1]
        groups, pixels, positions = len(rows.groups), regular + irregular, int(self._starts[-1])
        return Scratch(
            loaded=np.zeros(groups, np.int64),
            sums=np.zeros((groups, 2, self._region.classes, positions), np.float32),
            low_row=np.zeros(positions + 2, np.float32),
            best=np.zeros((PHASES, regular), np.float32),
            ids=np.zeros((PHASES, regular), np.int32),
            values=np.zeros(irregular, np.float32),
            values_best=np.zeros(irregular, np.float32),
            values_ids=np.zeros(irregular, np.int32),
            shares=(1 / (rows.windows * np.concatenate(self._covering))).astype(np.float32),
            exponentials=np.zeros((3, pixels), np.float32),
            line=np.zeros(PHASES * regular + irregular, mask_dtype(self._region.classes)),
        )

    def _add_regular(self, span: Span, start: int) -> np.ndarray:
        """The phase that is sampled after each of the span's positions, the first of which is
        `start`."""
        group = span.groups[0]
        phase = int(group.weight[0] * PHASES)
        self._add(span, PHASES * start + phase, start + group.index)
        self._covering.append(np.full(group.positions, span.windows))
        return np.full(group.positions, (phase + SAMPLE_AT - span.start) % PHASES)

    def _add_irregular(self, spans: list[Span], run: int) -> tuple[np.ndarray, np.ndarray]:
        """`Columns.indices` and `weights`. run: the number of the spans' first group."""
        terms = max((len(span.groups) for span in spans), default=0)
        shape = (terms, sum(span.length for span in spans))
        indices = np.full(shape, self._starts[-1], np.uint32)
        weights = np.zeros(shape, np.float32)
        column = 0
        for span in spans:
            columns = slice(column, column + span.length)
            exponentials = self._regular + np.arange(columns.start, columns.stop)
            self._add(span, PHASES * self._regular + column, exponentials)
            self._covering.append(np.full(span.length, span.windows))
            for term, group in enumerate(span.groups):
                indices[term, columns] = self._starts[run] + group.index
                weights[term, columns] = group.weight
                run += 1
            column = columns.stop
        return indices, weights

    def _add(self, span: Span, place_in_line: int, exponentials: np.ndarray) -> None:
        """Note where the span's pixels are in `line`, and each of them among the exponentials."""
        self._places.append((span.start - self.start, span.end - self.start, place_in_line))
        pixels = np.arange(span.start, span.end)
        slots = (pixels - self._region.core.col_off) // MASK_TILE_PX * self._region.classes
        table = np.stack([pixels - self.start, slots, exponentials], axis=1)
        self._samples.append(table[pixels % SAMPLE_STEP == SAMPLE_AT])

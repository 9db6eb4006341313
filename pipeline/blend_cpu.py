"""The blend as compiled loops: lays out the tables that `blend_kernel.py` works from.

Knows where torch keeps a window's logits, not what the loops do with them.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.blend import SAMPLE_AT, SAMPLE_STEP, Region, Windows
from pipeline.blend_kernel import PHASES, Columns, Out, Rows, Scratch, blend_strip
from pipeline.lattice import Segment
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Stitched, mask_dtype

CHUNK_PX = 2048
"""Columns that are blended at once: two rows of their sums, at 150 classes, are 0.7 MB."""


class CompiledBlend:
    """On the CPU, in one thread."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._result = region.nothing()
        self._chunks = [_Chunk(region, part) for part in _parted(region.columns)]

    def strip(self, rows: Segment, windows: Windows) -> None:
        core, result = self._region.core, self._result
        kept, table = self._rows(rows, windows)
        height = slice(rows.start - core.row_off, rows.end - core.row_off)
        for chunk in self._chunks:
            here = height, slice(chunk.start - core.col_off, chunk.end - core.col_off)
            valid_HW = np.array(self._region.valid_HW[here], order="C")
            if valid_HW.any():
                slots = result.confidence_TK.reshape(-1), result.samples_TK.reshape(-1)
                corner = np.array([height.start, here[1].start])
                out = Out(valid_HW, corner, result.class_ids_HW, *slots)
                blend_strip(out.ids.dtype.name, table, chunk.columns, chunk.scratch(rows), out)
        del kept  # no sooner: the loops read from addresses

    def close(self) -> Stitched:
        return self._result

    def _rows(self, rows: Segment, windows: Windows) -> tuple[list[torch.Tensor], Rows]:
        """What the addresses in the table lead to, and the table."""
        region, members = self._region, _members([rows])
        first_row, first_col = members[:, 0].min(), region.windows.start
        shape = (int(np.ptp(members[:, 0])) + 1, len(region.windows), 4)
        missing = torch.zeros(region.low)
        table, kept = np.zeros(shape, np.int64), [missing]
        table[:] = (missing.data_ptr(), 0, 0, region.low)
        for (row, col), given_Khw in windows.items():
            if 0 <= row - first_row < len(table):
                logits_Khw = given_Khw if given_Khw.stride(2) == 1 else given_Khw.contiguous()
                steps = [4 * step for step in logits_Khw.stride()[:2]]
                table[row - first_row, col - first_col] = (
                    logits_Khw.data_ptr(),
                    *steps,
                    region.low,
                )
                kept.append(logits_Khw)
        pixels = np.arange(rows.start, rows.end)
        tiles = (pixels - region.core.row_off) // MASK_TILE_PX * region.tile_columns
        return kept, Rows(
            table,
            members - (first_row, 0),
            np.cumsum([0, *(len(group.members) for group in rows.groups)]),
            np.stack([group.index for group in rows.groups]),
            np.stack([group.weight for group in rows.groups]),
            np.where(pixels % SAMPLE_STEP == SAMPLE_AT, tiles * region.classes, -1),
        )


class _Chunk:
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
        members = np.cumsum([0, *(len(group.members) for group in groups)])
        ends = self._narrow[:-1], self._narrow[1:], members[:-1], members[1:]
        self._places: list[tuple[int, int, int]] = []
        self._samples: list[np.ndarray] = []
        self._covering: list[np.ndarray] = []
        phases = [
            self._add_lattice(s, int(at)) for s, at in zip(lattice, self._narrow, strict=False)
        ]
        index, weight = self._add_scattered(scattered, len(lattice))
        self.columns = Columns(
            members=_members([*lattice, *scattered]) - (region.windows.start, 0),
            runs=np.stack(ends, axis=1),
            places=np.array(self._places),
            phases=np.concatenate([np.zeros(0, np.int64), *phases]),
            indices=index,
            weights=weight,
            samples=np.concatenate(self._samples),
        )
        self._room = self._scratch()

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

    def _scratch(self) -> Scratch:
        lattice, scattered = self._positions, self.columns.indices.shape[1]
        pixels = lattice + scattered
        return Scratch(
            loaded=np.zeros(0, np.int64),
            sums=np.zeros((0, 2, self._region.classes, int(self._narrow[-1])), np.float32),
            narrow=np.zeros(int(self._narrow[-1]) + 2, np.float32),
            best=np.zeros((PHASES, lattice), np.float32),
            ids=np.zeros((PHASES, lattice), np.int32),
            values=np.zeros(scattered, np.float32),
            values_best=np.zeros(scattered, np.float32),
            values_ids=np.zeros(scattered, np.int32),
            shares=np.zeros(pixels, np.float32),
            exponentials=np.zeros((3, pixels), np.float32),
            line=np.zeros(PHASES * lattice + scattered, mask_dtype(self._region.classes)),
        )

    def scratch(self, rows: Segment) -> Scratch:
        """Room for a strip of these rows."""
        groups, covering = len(rows.groups), np.concatenate(self._covering)
        if len(self._room.loaded) != groups:
            sums = np.zeros((groups, *self._room.sums.shape[1:]), np.float32)
            self._room = self._room._replace(loaded=np.zeros(groups, np.int64), sums=sums)
        shares = (1 / (rows.windows * covering)).astype(np.float32)
        return self._room._replace(shares=shares)


def _parted(columns: list[Segment]) -> list[list[Segment]]:
    chunks: list[list[Segment]] = []
    for segment in columns:
        if chunks and segment.end - chunks[-1][0].start <= CHUNK_PX:
            chunks[-1].append(segment)
        else:
            chunks.append([segment])
    return chunks


def _members(segments: list[Segment]) -> np.ndarray:
    return np.array([m for segment in segments for group in segment.groups for m in group.members])

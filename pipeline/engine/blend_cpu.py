"""The blend as compiled loops: a strip at a time, in chunks of columns.

Knows where torch keeps a window's logits, not what the loops do with them.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.engine.bilinear import Segment
from pipeline.engine.blend import SAMPLE_AT, SAMPLE_STEP, Region, Windows
from pipeline.engine.blend_loops import blend_strip
from pipeline.engine.blend_tables import Chunk, Out, Rows, members_of
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Stitched

CHUNK_PX, CHUNK_BYTES = 2048, 8 << 20
"""Columns that are blended at once, and their sums: two rows of them, at 150 classes, are 0.7 MB
where windows share their positions. Where they do not, each overlap has sums of its own."""


class CompiledBlend:
    """On the CPU, in one thread."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._result = region.nothing()
        self._chunks = [Chunk(region, part) for part in parted(region)]

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
        region, members = self._region, members_of([rows])
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


def parted(region: Region) -> list[list[Segment]]:
    """The region's columns in chunks of at most so many columns and bytes, or of one segment."""
    chunks: list[list[Segment]] = []
    position_bytes, size = 2 * 4 * region.classes * region.row_groups, 0
    for segment in region.columns:
        own = position_bytes * sum(group.positions for group in segment.groups)
        fits = chunks and segment.end - chunks[-1][0].start <= CHUNK_PX
        if fits and size + own <= CHUNK_BYTES:
            chunks[-1].append(segment)
            size += own
        else:
            chunks.append([segment])
            size = own
    return chunks

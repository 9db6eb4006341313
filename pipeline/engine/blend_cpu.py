"""The blend as compiled loops: a strip at a time, in chunks of columns.

Knows where torch keeps a window's logits, not what the loops do with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.engine.bilinear import Span, member_starts, members_table
from pipeline.engine.blend import Region, Windows, with_adjacent_columns
from pipeline.engine.blend_cpu_tables import Chunk, Out, Rows
from pipeline.engine.blend_loops import blend_strip
from pipeline.engine.confidence import SAMPLE_AT, SAMPLE_STEP
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import Stitched

CHUNK_PX, CHUNK_BYTES = 2048, 8 << 20
"""The columns that are blended at once, and the bytes of their sums: two rows of these, at 150
classes, are 0.7 MB if windows share their positions. If they do not, each overlap has sums of its
own."""


@dataclass(frozen=True)
class _Strip:
    """A strip's table, and what its addresses lead to."""

    rows: Rows
    tensors: list[torch.Tensor]
    """The arrays that the loops point into; keep them until the loops have run."""


class CompiledBlend:
    """A blend on the CPU, in one thread."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._result = region.empty_result()
        self._chunks = [Chunk(region, spans) for spans in column_chunks(region)]

    def strip(self, rows: Span, windows: Windows) -> None:
        core, result = self._region.core, self._result
        strip = self._strip(rows, windows)
        height = slice(rows.start - core.row_off, rows.end - core.row_off)
        for chunk in self._chunks:
            width = slice(chunk.start - core.col_off, chunk.end - core.col_off)
            valid_HW = np.array(self._region.valid_HW[height, width], order="C")
            if valid_HW.any():
                slots = result.confidence_TK.reshape(-1), result.samples_TK.reshape(-1)
                corner = np.array([height.start, width.start])
                out = Out(valid_HW, corner, result.class_ids_HW, *slots)
                blend_strip(out.ids.dtype.name, strip.rows, chunk.columns, chunk.scratch(rows), out)
        del strip  # no sooner: the loops read from its addresses

    def close(self) -> Stitched:
        return self._result

    def _strip(self, rows: Span, windows: Windows) -> _Strip:
        """The strip's table; windows that are missing become one of zeros."""
        region, members = self._region, members_table(rows.groups, 0)
        first_row, first_col = members[:, 0].min(), region.window_cols.start
        missing = torch.zeros(region.logits_edge)
        shape = (int(np.ptp(members[:, 0])) + 1, len(region.window_cols), 4)
        table, tensors = np.zeros(shape, np.int64), [missing]
        table[:] = (missing.data_ptr(), 0, 0, region.logits_edge)
        for (row, col), any_order_Khw in windows.items():
            if 0 <= row - first_row < len(table):
                logits_Khw = with_adjacent_columns(any_order_Khw)
                class_step, row_step = (4 * step for step in logits_Khw.stride()[:2])
                entry = (logits_Khw.data_ptr(), class_step, row_step, region.logits_edge)
                table[row - first_row, col - first_col] = entry
                tensors.append(logits_Khw)
        pixels = np.arange(rows.start, rows.end)
        tiles = (pixels - region.core.row_off) // MASK_TILE_PX * region.tile_columns
        numbers = Rows(
            windows=table,
            members=members - (first_row, 0),
            groups=member_starts(rows.groups),
            indices=np.stack([group.index for group in rows.groups]),
            weights=np.stack([group.weight for group in rows.groups]),
            slots=np.where(pixels % SAMPLE_STEP == SAMPLE_AT, tiles * region.classes, -1),
        )
        return _Strip(numbers, tensors)


def column_chunks(region: Region) -> list[list[Span]]:
    """The region's columns in chunks: each of at most CHUNK_PX and CHUNK_BYTES, or a single
    span."""
    chunks: list[list[Span]] = []
    position_bytes, chunk_bytes = 2 * 4 * region.classes * region.max_row_groups, 0
    for span in region.column_spans:
        span_bytes = position_bytes * sum(group.positions for group in span.groups)
        fits = chunks and span.end - chunks[-1][0].start <= CHUNK_PX
        if fits and chunk_bytes + span_bytes <= CHUNK_BYTES:
            chunks[-1].append(span)
            chunk_bytes += span_bytes
        else:
            chunks.append([span])
            chunk_bytes = span_bytes
    return chunks

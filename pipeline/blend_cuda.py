"""The blend on a CUDA device: the windows' logits stay there; class ids and the statistics of mask
tiles come back. No GPU has run this path yet, only Triton's interpreter.

Knows what the kernel of `blend_triton.py` reads and writes, not how it computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.blend import SAMPLE_AT, SAMPLE_STEP, Region, Windows
from pipeline.blend_triton import decide
from pipeline.device import fetched, sent, torch_dtype
from pipeline.lattice import Segment
from pipeline.unit import Stitched, mask_dtype

PIXELS = 128
"""Of a program."""


@dataclass(frozen=True)
class _Pixels:
    """Which columns the programs of a launch decide, on the device."""

    tiles: torch.Tensor
    """int64 (programs of a row, 4): first column of the core, the one past the last, groups from,
    to."""
    windows: np.ndarray
    """int64 (programs of a row): that cover these columns."""
    step: int
    at: int
    """The scene's rows and columns that leave `at` when divided by `step`."""


class TritonBlend:
    """On a CUDA device, or by the interpreter where the windows are on the CPU."""

    def __init__(self, region: Region, device: str = "cuda") -> None:
        self._region, self._device = region, torch.device(device)
        self._valid_HW = self._put(region.valid_HW.view(np.uint8))
        self._ids_HW, self._confidence_TK, self._samples_TK = self._nothing()
        self._columns, self._column_weights = self._tables(region.columns)
        self._launches = self._pixels(1, 0), self._pixels(SAMPLE_STEP, SAMPLE_AT)

    def strip(self, rows: Segment, windows: Windows) -> None:
        region, core = self._region, self._region.core
        kept, addresses = self._addresses(rows, windows)
        table, weights = self._tables([rows], addresses)
        for pixels in self._launches:
            first = (pixels.at - rows.start) % pixels.step
            count = len(range(first, rows.length, pixels.step))
            if not count or not len(pixels.tiles):
                continue
            shares = self._put((1 / (rows.windows * pixels.windows)).astype(np.float32))
            decide[len(pixels.tiles), count](
                *(table, weights, self._columns, self._column_weights, pixels.tiles, shares),
                *(self._valid_HW, self._ids_HW, self._confidence_TK, self._samples_TK),
                *(region.classes, core.width, rows.start - core.row_off, first),
                step=pixels.step,
                pixels=PIXELS,
                enable_fp_fusion=False,
            )
        del kept

    def close(self) -> Stitched:
        parts = self._ids_HW, self._confidence_TK, self._samples_TK
        return Stitched(*fetched(parts))

    def _put(self, values: np.ndarray) -> torch.Tensor:
        return sent(values, self._device)

    def _nothing(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As Region.nothing, made on the device: nodata has all bits set."""
        dtype = mask_dtype(self._region.classes)
        signed = torch.int8 if dtype.itemsize == 1 else torch.int16
        ids_HW = torch.full(self._region.valid_HW.shape, -1, dtype=signed, device=self._device)
        shape_TK = (self._region.tiles, self._region.classes)
        sums_2TK = torch.zeros((2, *shape_TK), dtype=torch.int64, device=self._device)
        return ids_HW.view(torch_dtype(np.empty(0, dtype))), *sums_2TK

    def _pixels(self, step: int, at: int) -> _Pixels:
        tiles, windows, group = [], [], 0
        left = self._region.core.col_off
        for segment in self._region.columns:
            groups = group, group + len(segment.groups)
            first = segment.start + (at - segment.start) % step
            for x in range(first, segment.end, step * PIXELS):
                tiles.append((x - left, segment.end - left, *groups))
                windows.append(segment.windows)
            group = groups[1]
        return _Pixels(self._put(np.array(tiles).reshape(-1, 4)), np.array(windows), step, at)

    def _addresses(
        self, rows: Segment, windows: Windows
    ) -> tuple[list[torch.Tensor], list[tuple[int, int, int]]]:
        """What the addresses lead to; of each window of the strip, row by row: where its logits
        are, and how far it is there from class to class and from row to row, in values."""
        indices = [row for group in rows.groups for row, _ in group.members]
        missing = torch.zeros(self._region.low, device=self._device)
        kept, table = [missing], []
        for row in range(min(indices), max(indices) + 1):
            for col in self._region.windows:
                if (row, col) not in windows:
                    table.append((missing.data_ptr(), 0, 0))
                    continue
                given_Khw = windows[row, col]
                logits_Khw = given_Khw if given_Khw.stride(2) == 1 else given_Khw.contiguous()
                kept.append(logits_Khw)
                table.append((logits_Khw.data_ptr(), logits_Khw.stride(0), logits_Khw.stride(1)))
        return kept, table

    def _tables(
        self, segments: Sequence[Segment], addresses: Sequence[tuple[int, int, int]] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How the pixels of an axis sample, from the first segment's start on. int64: where
        members, groups, indices and addresses begin, how many groups there are, how many positions
        a window has and how many columns of windows there are; then these. float32: the weights."""
        groups: list[tuple[int, int, int]] = []
        members: list[tuple[int, int]] = []
        pixels = 0
        for segment in segments:
            for group in segment.groups:
                first = pixels - (segment.start - segments[0].start)
                groups.append((len(members), len(members) + len(group.members), first))
                members += group.members
                pixels += segment.length
        every = [group for segment in segments for group in segment.groups]
        parts = [
            np.array(members) - np.array((min(window for window, _ in members), 0)),
            np.array(groups),
            np.concatenate([group.index for group in every]),
            np.array(addresses, np.int64),
        ]
        begins = 7 + np.cumsum([0, *(part.size for part in parts[:-1])])
        head = np.array([*begins, len(groups), self._region.low, len(self._region.windows)])
        table = np.concatenate([head, *(part.ravel() for part in parts)])
        weights = np.concatenate([group.weight for group in every])
        return self._put(table), self._put(weights)

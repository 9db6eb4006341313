"""The blend on a CUDA device: the windows' logits stay there; class ids and the statistics of mask
tiles come back.

Knows what the kernels of `blend_triton.py` read and write, not how they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.engine.bilinear import Group, Segment
from pipeline.engine.blend import SAMPLE_AT, SAMPLE_STEP, Region, Windows
from pipeline.engine.blend_triton import decide, sum_windows
from pipeline.engine.device import fetched, sent, torch_dtype
from pipeline.unit import Stitched, mask_dtype

PIXELS, WARPS = 128, 4
"""Of a program of `decide`."""
POSITIONS, CLASSES = 128, 8
"""Of a program of `sum_windows`."""


@dataclass(frozen=True)
class _Pixels:
    """Which columns the programs of a launch of `decide` take, on the device."""

    tiles: torch.Tensor
    """int64 (programs of a row, 4): first column of the core, the one past the last, groups from,
    to."""
    windows: np.ndarray
    """int64 (programs of a row): that cover these columns."""
    single: bool
    """They have one group each."""
    step: int
    at: int
    """The scene's rows and columns that leave `at` when divided by `step`."""


class TritonBlend:
    """On a CUDA device, or by the interpreter where the windows are on the CPU."""

    def __init__(self, region: Region, device: str = "cuda") -> None:
        self._region, self._device = region, torch.device(device)
        self._valid_HW = self._put(region.valid_HW.view(np.uint8))
        self._ids_HW, self._confidence_TK, self._samples_TK = self._nothing()
        groups = [group for segment in region.columns for group in segment.groups]
        self._width = sum(group.positions for group in groups)
        """Of the sums."""
        self._columns = self._table(
            _members(groups, region.windows.start), _indices(groups), _pixels_before(region.columns)
        )
        self._column_weights = self._put(np.concatenate([group.weight for group in groups]))
        self._positions = self._put(_positions(groups))
        self._launches = [
            self._pixels(step, at, single)
            for step, at in ((1, 0), (SAMPLE_STEP, SAMPLE_AT))
            for single in (True, False)
        ]

    def strip(self, rows: Segment, windows: Windows) -> None:
        region, core, height = self._region, self._region.core, _height(rows)
        kept, addresses = self._addresses(rows, windows)
        table = self._rows(rows, addresses)
        weights = self._put(np.concatenate([group.weight for group in rows.groups]))
        sums = torch.empty((region.classes, height, self._width), device=self._device)
        sum_windows[len(self._positions), height, -(-region.classes // CLASSES)](
            *(table, self._columns, self._positions, sums, region.classes, region.low),
            *(len(region.windows), self._width, height),
            positions=POSITIONS,
            some=CLASSES,
            enable_fp_fusion=False,
        )
        for pixels in self._launches:
            first = (pixels.at - rows.start) % pixels.step
            count = len(range(first, rows.length, pixels.step))
            if not count or not len(pixels.tiles):
                continue
            shares = self._put((1 / (rows.windows * pixels.windows)).astype(np.float32))
            decide[len(pixels.tiles), count](
                *(table, weights, self._columns, self._column_weights, pixels.tiles, shares, sums),
                *(self._valid_HW, self._ids_HW, self._confidence_TK, self._samples_TK),
                *(region.classes, self._width, height, core.width, rows.start - core.row_off),
                first,
                step=pixels.step,
                single=pixels.single and len(rows.groups) == 1,
                pixels=PIXELS,
                enable_fp_fusion=False,
                num_warps=WARPS,
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

    def _pixels(self, step: int, at: int, single: bool) -> _Pixels:
        tiles, windows, group = [], [], 0
        left = self._region.core.col_off
        for segment in self._region.columns:
            groups = group, group + len(segment.groups)
            group = groups[1]
            if (len(segment.groups) == 1) != single:
                continue
            first = segment.start + (at - segment.start) % step
            for x in range(first, segment.end, step * PIXELS):
                tiles.append((x - left, segment.end - left, *groups))
                windows.append(segment.windows)
        table = self._put(np.array(tiles, np.int64).reshape(-1, 4))
        return _Pixels(table, np.array(windows), single, step, at)

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

    def _rows(self, rows: Segment, addresses: Sequence[tuple[int, int, int]]) -> torch.Tensor:
        """Of a strip: members, of each row of the sums its members from and to and its place in its
        group, which row of them each pixel of each group samples, addresses; last how many groups
        there are, and pixels."""
        groups, member = rows.groups, 0
        first = min(window for group in groups for window, _ in group.members)
        places = []
        for group in groups:
            members = member, member + len(group.members)
            places += [(*members, position) for position in range(group.positions)]
            member = members[1]
        parts = _members(groups, first), np.array(places), _indices(groups), np.array(addresses)
        return self._table(*parts, last=(len(groups), rows.length))

    def _table(self, *parts: np.ndarray, last: tuple[int, ...] = ()) -> torch.Tensor:
        """int64: where the parts begin, and `last`; then the parts."""
        begins = len(parts) + len(last) + np.cumsum([0, *(part.size for part in parts[:-1])])
        return self._put(np.concatenate([begins, last, *(p.ravel() for p in parts)]).astype(int))


def _height(rows: Segment) -> int:
    """Of the sums."""
    return sum(group.positions for group in rows.groups)


def _members(groups: Sequence[Group], first: int) -> np.ndarray:
    """Of all groups, (n, 2): which window, counted from the first, and its own position 0."""
    return np.array([member for group in groups for member in group.members]) - (first, 0)


def _indices(groups: Sequence[Group]) -> np.ndarray:
    """Of each group's pixels: which position of the sums they sample."""
    begins = np.cumsum([0, *(group.positions for group in groups)])
    return np.concatenate([at + g.index for at, g in zip(begins, groups, strict=False)])


def _pixels_before(segments: Sequence[Segment]) -> np.ndarray:
    """Of each group: what is to be added to a column of the core to find it in `_indices`."""
    before, pixels = [], 0
    for segment in segments:
        for _ in segment.groups:
            before.append(pixels - (segment.start - segments[0].start))
            pixels += segment.length
    return np.array(before)


def _positions(groups: Sequence[Group]) -> np.ndarray:
    """The programs of a row of `sum_windows`, int64 (n, 5): positions from, and to; where their
    group begins; its members from, to."""
    tiles, begin, member = [], 0, 0
    for group in groups:
        end, members = begin + group.positions, (member, member + len(group.members))
        tiles += [(x, end, begin, *members) for x in range(begin, end, POSITIONS)]
        begin, member = end, members[1]
    return np.array(tiles)

"""The blend on a CUDA device: the windows' logits stay there; class ids and the statistics of mask
tiles come back.

Knows what the kernels of `blend_triton.py` read and write, not how they compute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.engine.bilinear import Span
from pipeline.engine.blend import Region, Windows, with_adjacent_columns
from pipeline.engine.blend_cuda_tables import (
    column_table,
    groups_of,
    pixel_tiles,
    strip_table,
    sum_tiles,
)
from pipeline.engine.blend_triton import decide, sum_windows
from pipeline.engine.confidence import SAMPLE_AT, SAMPLE_STEP
from pipeline.engine.transfers import to_device, to_host, torch_dtype
from pipeline.unit import Stitched, mask_dtype

PROGRAM_PIXELS, PROGRAM_WARPS = 128, 4
"""The size of a program of `decide`."""
PROGRAM_POSITIONS, PROGRAM_CLASSES = 128, 8
"""The size of a program of `sum_windows`."""


@dataclass(frozen=True)
class _Launch:
    """A launch of `decide` for each strip: which of the core's pixels it takes."""

    tiles: torch.Tensor
    """The tiles of PixelTiles, on the device."""
    windows: np.ndarray
    """The windows of PixelTiles."""
    single: bool
    """Whether the columns have one group each."""
    step: int
    at: int
    """The launch takes the scene's rows and columns that leave `at` when divided by `step`."""


@dataclass(frozen=True)
class _WindowLogits:
    """The windows of a strip, row by row, where the kernels can read them."""

    tensors: list[torch.Tensor]
    """The logits that the addresses point to; keep them until the kernels have been launched."""
    addresses: np.ndarray
    """int64 (windows, ADDRESS_SLOTS)."""


class TritonBlend:
    """A blend on a CUDA device, or in Triton's interpreter if the windows are on the CPU."""

    def __init__(self, region: Region, device: str = "cuda") -> None:
        self._region, self._device = region, torch.device(device)
        self._valid_HW = self._put(region.valid_HW.view(np.uint8))
        self._ids_HW, self._confidence_TK, self._samples_TK = self._empty_result()
        groups = groups_of(region.column_spans)
        self._width = sum(group.positions for group in groups)
        """The number of columns of the sums."""
        self._columns = self._put(column_table(region.column_spans, region.window_cols.start))
        self._column_weights = self._put(np.concatenate([group.weight for group in groups]))
        self._sum_tiles = self._put(sum_tiles(groups, PROGRAM_POSITIONS))
        self._launches = [
            self._launch(step, at, single)
            for step, at in ((1, 0), (SAMPLE_STEP, SAMPLE_AT))
            for single in (True, False)
        ]

    def strip(self, rows: Span, windows: Windows) -> None:
        region, height = self._region, sum(group.positions for group in rows.groups)
        logits = self._window_logits(rows, windows)
        table = self._put(strip_table(rows, logits.addresses))
        weights = self._put(np.concatenate([group.weight for group in rows.groups]))
        sums_KYX = torch.empty((region.classes, height, self._width), device=self._device)
        sum_windows[len(self._sum_tiles), height, -(-region.classes // PROGRAM_CLASSES)](
            *(table, self._columns, self._sum_tiles, sums_KYX),
            *(region.classes, region.logits_edge, len(region.window_cols), self._width, height),
            program_positions=PROGRAM_POSITIONS,
            program_classes=PROGRAM_CLASSES,
            enable_fp_fusion=False,
        )
        for launch in self._launches:
            self._decide(launch, rows, table, weights, sums_KYX)
        del logits  # no sooner: the kernels read from its addresses

    def close(self) -> Stitched:
        return Stitched(*to_host((self._ids_HW, self._confidence_TK, self._samples_TK)))

    def _decide(
        self,
        launch: _Launch,
        rows: Span,
        table: torch.Tensor,
        weights: torch.Tensor,
        sums_KYX: torch.Tensor,
    ) -> None:
        """Class ids of a strip, or the statistics of its sampled pixels."""
        core, (classes, height, width) = self._region.core, sums_KYX.shape
        first = (launch.at - rows.start) % launch.step
        pixel_rows = len(range(first, rows.length, launch.step))
        if not pixel_rows or not len(launch.tiles):
            return
        shares = self._put((1 / (rows.windows * launch.windows)).astype(np.float32))
        decide[len(launch.tiles), pixel_rows](
            *(table, weights, self._columns, self._column_weights, launch.tiles, shares, sums_KYX),
            *(self._valid_HW, self._ids_HW, self._confidence_TK, self._samples_TK),
            *(classes, width, height, core.width, rows.start - core.row_off, first),
            step=launch.step,
            single=launch.single and len(rows.groups) == 1,
            program_pixels=PROGRAM_PIXELS,
            enable_fp_fusion=False,
            num_warps=PROGRAM_WARPS,
        )

    def _put(self, values: np.ndarray) -> torch.Tensor:
        return to_device(values, self._device)

    def _empty_result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As Region.empty_result, made on the device: nodata has all bits set."""
        dtype = mask_dtype(self._region.classes)
        signed = torch.int8 if dtype.itemsize == 1 else torch.int16
        ids_HW = torch.full(self._region.valid_HW.shape, -1, dtype=signed, device=self._device)
        shape_TK = (self._region.tiles, self._region.classes)
        sums_2TK = torch.zeros((2, *shape_TK), dtype=torch.int64, device=self._device)
        return ids_HW.view(torch_dtype(np.empty(0, dtype))), *sums_2TK

    def _launch(self, step: int, at: int, single: bool) -> _Launch:
        pixels = pixel_tiles(self._region.column_spans, step, at, PROGRAM_PIXELS, single)
        return _Launch(self._put(pixels.tiles), pixels.windows, single, step, at)

    def _window_logits(self, rows: Span, windows: Windows) -> _WindowLogits:
        """The logits of the strip's windows; windows that are missing become one of zeros."""
        indices = [member.window for group in rows.groups for member in group.members]
        missing = torch.zeros(self._region.logits_edge, device=self._device)
        tensors, addresses = [missing], []
        for row in range(min(indices), max(indices) + 1):
            for col in self._region.window_cols:
                if (row, col) not in windows:
                    addresses.append((missing.data_ptr(), 0, 0))
                    continue
                logits_Khw = with_adjacent_columns(windows[row, col])
                tensors.append(logits_Khw)
                class_step, row_step, _ = logits_Khw.stride()
                addresses.append((logits_Khw.data_ptr(), class_step, row_step))
        return _WindowLogits(tensors, np.array(addresses))

"""One loaded model: the pixels of a unit to class ids, in batches of one fixed shape.

A short batch is filled with zeros, never shrunk: at a fixed shape a window's logits are bit-equal
in any slot. Knows neither files nor Ray. Suffixes: N batch, C channels, K classes, H W pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline.access import Access
from pipeline.errors import InputError
from pipeline.grid import WindowGrid
from pipeline.guard import rearm
from pipeline.raster import Pixels
from pipeline.receipt import Failure
from pipeline.scene import Block, Rect, Scene
from pipeline.stages import Work
from pipeline.stitch import Stitcher, blend_on
from pipeline.unit import ReadUnit, SegmentedUnit, Stitched, failure_of
from pipeline.verdict import explained, patiently
from segformer import load_model

T = TypeVar("T")

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass
class _Open:
    """A block under way."""

    block: Block
    pixels: Pixels
    grid: WindowGrid
    stitcher: Stitcher
    failure: Failure | None = None
    result: Stitched | Failure | None = None

    def close(self) -> Stitched | Failure:
        """Blends what is left and lets the logits go. A second call changes nothing."""
        if self.result is None:
            self.result = self.failure or self.stitcher.close()
        return self.result


@dataclass(frozen=True)
class _Window:
    block: _Open
    row: int
    col: int
    input_CHW: torch.Tensor


def devices_here() -> tuple[str, int]:
    """The kind of device that replicas on this machine use, and how many of them there are."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.device_count()
    return "cpu", len(os.sched_getaffinity(0))


def from_checkpoint(read: Callable[..., T], checkpoint: str, access: Access) -> T:
    """What `read`, load_model or checkpoint_sha256, makes of it.

    Raises CheckpointError for what is wrong with the checkpoint, UsageError where its store
    refuses, TransientError where it does not answer.
    """

    def once() -> T:
        with explained(checkpoint):
            return read(checkpoint, storage_options=access.fsspec(checkpoint))

    return patiently(once, access.patience_s)


class Replica:
    """A model on a device, ready to segment units."""

    def __init__(self, work: Work) -> None:
        """Loads the job's checkpoint. Raises what `from_checkpoint` raises."""
        settings, device = work.job.settings, work.job.device
        assert settings.batch is not None
        if device == "cpu":
            # One thread: with more, a window's logits can depend on their number and on its slot.
            torch.set_num_threads(1)
        else:  # float32 means float32, and no kernel is chosen by timing
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.deterministic = True
        self._settings = settings
        self._batch = settings.batch
        self._device = torch.device(device)
        self._dtype = TORCH_DTYPES[settings.dtype]
        model = from_checkpoint(load_model, work.job.checkpoint, work.access)
        self.classes = model.config.num_labels
        self._mean_C11 = torch.tensor(model.normalisation.mean)[:, None, None].to(device)
        self._std_C11 = torch.tensor(model.normalisation.std)[:, None, None].to(device)
        self._rescale = model.normalisation.rescale
        self._model = model.to(self._device, self._dtype)
        self._make_blend = blend_on(self._device.type, self.classes)

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        """Class ids for every block that has pixels; non-finite logits fail their block."""
        started = time.perf_counter()
        blocks = [
            self._open(block, pixels) if isinstance(pixels, Pixels) else pixels
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        ]
        windows = 0
        current: _Open | None = None
        with torch.inference_mode():
            for batch in self._batches(block for block in blocks if isinstance(block, _Open)):
                windows += len(batch)
                for window, logits_Khw in zip(batch, self._forward(batch), strict=False):
                    if current is not None and current is not window.block:
                        current.close()  # windows come block by block
                    current = window.block
                    self._blend(window, logits_Khw)
            done = tuple(b if isinstance(b, Failure) else b.close() for b in blocks)
        seconds = time.perf_counter() - started
        return SegmentedUnit(read.unit, done, windows, read.read_s, seconds, read.retries)

    def _open(self, block: Block, pixels: Pixels) -> _Open:
        scene, core, rect = block.scene, block.core, pixels.rect
        settings = self._settings
        grid = WindowGrid.of(scene.width, scene.height, settings.window, settings.stride)
        top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
        valid_HW = pixels.valid_HW[top : top + core.height, left : left + core.width]
        stitcher = Stitcher(grid, core, valid_HW, self.classes, self._make_blend)
        return _Open(block, pixels, grid, stitcher)

    def _batches(self, blocks: Iterator[_Open]) -> Iterator[list[_Window]]:
        """Windows in the order of the blocks, in full batches across blocks but for the last."""
        batch: list[_Window] = []
        for block in blocks:
            rows, cols = block.grid.touching(block.block.core)
            for row in rows:
                for col in cols:
                    window = None if block.failure else self._window(block, row, col)
                    if window is None:
                        continue
                    batch.append(window)
                    if len(batch) == self._batch:
                        yield batch
                        batch = []
        if batch:
            yield batch

    def _window(self, block: _Open, row: int, col: int) -> _Window | None:
        """The normalised window; None where it has no valid pixel."""
        edge, rect = self._settings.window, block.pixels.rect
        top = block.grid.rows.origin(row) - rect.row_off
        left = block.grid.cols.origin(col) - rect.col_off
        here = np.s_[top : top + edge, left : left + edge]
        valid_HW = block.pixels.valid_HW[here]
        if not valid_HW.any():
            return None
        values_CHW = np.ascontiguousarray(block.pixels.values_CHW[:, *here])
        if not values_CHW.flags.writeable:
            values_CHW = values_CHW.copy()
        x_CHW = torch.from_numpy(values_CHW).to(self._device).float()
        scale, offset = self._scaling(block.block.scene)
        x_CHW = (x_CHW * scale + offset - self._mean_C11) / self._std_C11
        # The channel mean is 0 after normalisation: what is not data says nothing.
        valid = torch.from_numpy(np.ascontiguousarray(valid_HW)).to(self._device)
        x_CHW = torch.where(valid & x_CHW.isfinite(), x_CHW, torch.zeros_like(x_CHW))
        below, beside = edge - valid_HW.shape[0], edge - valid_HW.shape[1]
        return _Window(block, row, col, torch.nn.functional.pad(x_CHW, (0, beside, 0, below)))

    def _scaling(self, scene: Scene) -> tuple[float, float]:
        """--scale and --offset are for what is not uint8; a uint8 scene beside it needs neither."""
        if scene.dtype == "uint8" or self._settings.scale is None:
            return self._rescale, 0.0
        return self._settings.scale, self._settings.offset or 0.0

    def _forward(self, batch: list[_Window]) -> torch.Tensor:
        """float32 logits of one batch, with more rows than windows if it was short."""
        rearm()  # as long as windows come, nothing hangs
        inputs = [window.input_CHW for window in batch]
        inputs += [torch.zeros_like(inputs[0])] * (self._batch - len(inputs))
        logits_NKhw: torch.Tensor = self._model(torch.stack(inputs).to(self._dtype)).float()
        return logits_NKhw

    def _blend(self, window: _Window, logits_Khw: torch.Tensor) -> None:
        block = window.block
        if block.failure:
            return
        # The sum of finite values may overflow, but that of others is never finite: one pass over
        # them instead of four.
        if not bool(logits_Khw.sum().isfinite()) and not bool(logits_Khw.isfinite().all()):
            block.failure = self._non_finite(window)
            return
        block.stitcher.add(window.row, window.col, logits_Khw)

    def _non_finite(self, window: _Window) -> Failure:
        block, edge = window.block.block, self._settings.window
        grid = window.block.grid
        rect = Rect(grid.cols.origin(window.col), grid.rows.origin(window.row), edge, edge)
        remedy = (
            "use --dtype float32 or bfloat16"
            if self._settings.dtype == "float16"
            else "check the checkpoint and --scale/--offset"
        )
        error = InputError(
            f"{block.scene.url}: the network gave NaN or infinite logits in window {rect} at"
            f" {self._settings.dtype}; {remedy}",
            url=block.scene.url,
            stage="segment",
        )
        return failure_of(error, block)

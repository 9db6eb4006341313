"""One loaded model: the pixels of a unit to class ids.

Knows windows and blends; knows neither files nor Ray. Suffixes: K classes, H W pixels, h w
positions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import TypeVar

import torch

from pipeline.checkpoint import from_checkpoint
from pipeline.engine.forward import GPU_SHARE, Forward
from pipeline.engine.gpu import Gpu
from pipeline.engine.open_block import OpenBlock, Window
from pipeline.engine.stitcher import Stitcher, blend_on
from pipeline.errors import UsageError
from pipeline.failure import Failure
from pipeline.grid import WindowGrid
from pipeline.job import Job
from pipeline.processes.limits import rearm
from pipeline.scene import Scene
from pipeline.storage.access import Access
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Stitched
from segformer import load_model

T = TypeVar("T")
_NO_MEMORY = {
    "cpu": ("DefaultCPUAllocator", "bad_alloc"),
    "cuda": ("CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED"),
}
"""In the RuntimeErrors that torch makes of allocations that failed on a device: its own, and those
of C++, CUDA and CUDA's libraries."""


class Replica:
    """A model on a device, ready to segment units."""

    def __init__(self, job: Job, access: Access, sharing: int) -> None:
        """Loads the job's checkpoint. Raises what `from_checkpoint` raises."""
        self._settings = job.settings
        model = from_checkpoint(load_model, job.checkpoint, access)
        self.classes = len(model.config.class_names)
        self._rescale = model.normalisation.rescale
        self._device = job.device
        self._sharing = sharing
        self._forward = Forward(model, self._settings, self._device, self._sharing)
        self._make_blend = blend_on(self._device, self.classes)
        self._gpu = Gpu() if self._device == "cuda" else None

    def warm_up(self) -> None:
        """What the first unit would wait for; a batch for which there is no memory is its."""
        try:
            self._forward.resize(self._settings.batch or 1)
        except (MemoryError, RuntimeError) as error:
            if not self._is_short(error):
                raise

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        """Class ids for every block that has pixels; non-finite logits fail their block.

        Raises UsageError where a GPU's memory is too short, which names a batch that fits.
        """
        started = time.perf_counter()
        batch = self._settings.batch or 1
        found = None
        try:
            found = self._segment(read, batch)
        except (MemoryError, RuntimeError) as error:
            if self._gpu is None or not self._is_short(error):
                raise  # others may have taken the host's: the unit is tried again, alone
        if found is None:  # the error has gone, and with it what it kept of the GPU's memory
            raise UsageError(self._too_large(read, batch))
        done, windows = found
        seconds = time.perf_counter() - started
        gpu = self._gpu.use() if self._gpu else None
        return SegmentedUnit(read.unit, done, windows, read.read_s, seconds, read.retries, gpu)

    def fitting(self, read: ReadUnit, most: int) -> int:
        """The largest batch, of `most`, half of it and so on, with which there is memory enough to
        segment the unit; 0: none."""
        batch = most
        while batch and not self._fits(read, batch):
            batch //= 2
        return batch

    def _fits(self, read: ReadUnit, batch: int) -> bool:
        try:
            self._segment(read, batch)
        except (MemoryError, RuntimeError) as error:
            if self._is_short(error):
                return False
            raise
        return True

    def _is_short(self, error: BaseException) -> bool:
        """Whether the device had no memory for something, or for what was under way when an error
        came."""
        if isinstance(error, MemoryError) and self._device == "cpu":
            return True
        if any(words in str(error) for words in _NO_MEMORY[self._device]):
            return True
        return error.__context__ is not None and self._is_short(error.__context__)

    def _too_large(self, read: ReadUnit, batch: int) -> str:
        fits, block = self.fitting(read, batch // 2), read.unit.blocks[0]
        share = f" (a replica may take {GPU_SHARE / self._sharing:.0%} of it)"
        what = (
            f"{block.scene.url}: the GPU has no memory left with --batch {batch} and a block of"
            f" {block.core}{share}"
        )
        if fits:
            return (
                f"{what}; --batch {fits} fits here: name it, and another --output, for all windows"
                " of an output are computed in batches of one size"
            )
        return f"{what}, nor with any smaller batch; name a smaller --block, and another --output"

    @torch.inference_mode()
    def _segment(self, read: ReadUnit, batch: int) -> tuple[tuple[Stitched | Failure, ...], int]:
        """The outcome of each block, and how many windows were computed."""
        self._forward.resize(batch)
        blocks = [
            self._open(block, pixels) if isinstance(pixels, Pixels) else pixels
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        ]
        windows, current, dtype = 0, None, self._settings.dtype
        for some in self._batches(block for block in blocks if isinstance(block, OpenBlock)):
            rearm()  # as long as windows come, nothing hangs
            if self._gpu:
                self._gpu.sample()
            windows += len(some)
            logits_NKhw = self._forward([window.cut for window in some])
            finite_N = _finite(logits_NKhw)
            for window, logits_Khw, finite in zip(some, logits_NKhw, finite_N, strict=False):
                if current is not None and current is not window.block:
                    current.close(dtype)  # windows come block by block
                current = window.block
                current.add(window, logits_Khw, finite)
        done = tuple(b if isinstance(b, Failure) else b.close(dtype) for b in blocks)
        return done, windows

    def _open(self, block: Block, pixels: Pixels) -> OpenBlock:
        scene, core, rect = block.scene, block.core, pixels.rect
        settings = self._settings
        grid = WindowGrid.over(scene, settings)
        top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
        valid_HW = pixels.valid_HW[top : top + core.height, left : left + core.width]
        stitcher = Stitcher(grid, core, valid_HW, self.classes, self._make_blend)
        held = self._forward.hold(pixels.values_CHW, pixels.valid_HW)
        return OpenBlock(block, pixels, held, grid, stitcher, self.scaling(scene))

    def scaling(self, scene: Scene) -> tuple[float, float]:
        """--scale and --offset are for what is not uint8; a uint8 scene beside it needs neither."""
        if scene.dtype == "uint8" or self._settings.scale is None:
            return self._rescale, 0.0
        return self._settings.scale, self._settings.offset or 0.0

    def _batches(self, blocks: Iterator[OpenBlock]) -> Iterator[list[Window]]:
        """Windows in the order of the blocks, in full batches across blocks but for the last."""
        windows = chain.from_iterable(block.windows() for block in blocks)
        while some := list(islice(windows, self._forward.batch)):
            yield some


def _finite(logits_NKhw: torch.Tensor) -> torch.Tensor:
    """bool_N. The extremes of what holds a NaN are NaN; a value each is 25 times slower."""
    flat_NX = logits_NKhw.flatten(1)
    return flat_NX.amax(dim=1).isfinite() & flat_NX.amin(dim=1).isfinite()

"""One loaded model: the pixels of a unit to class ids.

Knows windows and blends; knows neither files nor Ray. Suffixes: N batch, K classes, h w positions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import NamedTuple

import torch

from pipeline.checkpoint import call_on_checkpoint
from pipeline.engine.device import GpuMonitor
from pipeline.engine.forward import GPU_SHARE, Forward
from pipeline.engine.open_block import OpenBlock, Scaling, Window
from pipeline.engine.stitcher import Stitcher, blend_on
from pipeline.errors import UsageError, one_line
from pipeline.failure import Failure
from pipeline.grid import WindowGrid
from pipeline.job import Job
from pipeline.processes.limits import rearm
from pipeline.scene import Scene
from pipeline.storage.access import Access
from pipeline.unit import Block, Pixels, ReadUnit, SegmentedUnit, Stitched
from segformer import Checkpoint, SegFormer, read_checkpoint

_NO_MEMORY = {
    "cpu": ("DefaultCPUAllocator", "bad_alloc"),
    "cuda": ("CUDA out of memory", "CUDA error: out of memory", "ALLOC_FAILED"),
}
"""Words in the RuntimeErrors that torch raises for failed allocations on a device: its own, and
those of C++, CUDA and CUDA's libraries."""


class _Segmented(NamedTuple):
    """The results of a unit's blocks."""

    outcomes: tuple[Stitched | Failure, ...]
    """One for each block."""
    windows: int
    """The number of windows computed."""


class Replica:
    """A model on a device, ready to segment units."""

    def __init__(
        self, job: Job, access: Access, sharing: int, read: Checkpoint | None = None
    ) -> None:
        """Load the job's checkpoint onto its device, and compile the blend.

        sharing: the number of replicas on one GPU, which divide its memory; read: the checkpoint,
        if it has been read. Raises what `call_on_checkpoint` raises, and UsageError if the
        checkpoint is another one by now.
        """
        self._settings, self._device, self._sharing = job.settings, job.device, sharing
        self._batch = job.settings.batch or 1
        model = _load(job, access) if read is None else SegFormer(read)
        self.classes = len(model.config.class_names)
        self._align_corners = model.config.align_corners
        self._rescale = model.normalisation.rescale
        self._forward = Forward(model, self._settings, self._device, sharing)
        self._make_blend = blend_on(self._device, self.classes)
        self._gpu = GpuMonitor() if self._device == "cuda" else None

    def warm_up(self) -> None:
        """Set up what the first unit would wait for. If there is no memory for a batch, the first
        unit reports it."""
        try:
            self._forward.resize(self._batch)
        except (MemoryError, RuntimeError) as error:
            if not self._is_short(error):
                raise

    def segment(self, read: ReadUnit) -> SegmentedUnit:
        """Class ids for every block that has pixels; non-finite logits fail their block.

        Raises UsageError if a GPU's memory is too short, which names a batch that fits, and
        MemoryError if the host's is.
        """
        started = time.perf_counter()
        segmented = None
        try:
            segmented = self._segment(read, self._batch)
        except (MemoryError, RuntimeError) as error:
            if not self._is_short(error):
                raise
            if self._gpu is None:  # other processes may have taken it: the unit is tried in pieces
                raise MemoryError(one_line(error)) from error
        if segmented is None:  # the error is gone, and with it what it kept of the GPU's memory
            raise UsageError(self._too_large(read, self._batch))
        seconds = time.perf_counter() - started
        gpu = self._gpu.use() if self._gpu else None
        return SegmentedUnit(read.unit, *segmented, read.read_s, seconds, read.retries, gpu)

    def scaling(self, scene: Scene) -> Scaling:
        """How the scene's values become values as the network gets them before normalization.
        --scale and --offset are for all dtypes but uint8; a uint8 scene beside others needs
        neither. The file's own scale was applied when the scene was read."""
        if scene.scales:
            return Scaling(1.0, 0.0)
        scale = self._settings.scale
        if scene.values_dtype == "uint8" or scale is None or isinstance(scale, str):
            return Scaling(self._rescale, 0.0)
        return Scaling(scale, self._settings.offset or 0.0)

    def fitting_batch(self, read: ReadUnit, max_batch: int) -> int:
        """The largest of `max_batch`, half of it and so on with which there is enough memory to
        segment the unit; 0 if there is none."""
        batch = max_batch
        while batch and not self._fits(read, batch):
            batch //= 2
        return batch

    @torch.inference_mode()
    def _segment(self, read: ReadUnit, batch: int) -> _Segmented:
        self._forward.resize(batch)
        blocks = [
            self._open(block, pixels) if isinstance(pixels, Pixels) else pixels
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        ]
        computed, current, dtype = 0, None, self._settings.dtype
        for windows in self._batches(block for block in blocks if isinstance(block, OpenBlock)):
            rearm()  # as long as windows come, nothing hangs
            if self._gpu:
                self._gpu.sample()
            computed += len(windows)
            logits_NKhw = self._forward([window.pixels for window in windows])
            finite_N = _finite(logits_NKhw)
            for window, logits_Khw, finite in zip(windows, logits_NKhw, finite_N, strict=False):
                if current is not None and current is not window.block:
                    current.close(dtype)  # windows come block by block
                current = window.block
                current.add(window, logits_Khw, finite)
        outcomes = (b if isinstance(b, Failure) else b.close(dtype) for b in blocks)
        return _Segmented(tuple(outcomes), computed)

    def _open(self, block: Block, pixels: Pixels) -> OpenBlock:
        """A block with its pixels on the device, as far as they are sent ahead."""
        scene, core, rect = block.scene, block.core, pixels.rect
        grid = WindowGrid.over(scene, self._settings)
        top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
        valid_HW = pixels.valid_HW[top : top + core.height, left : left + core.width]
        stitcher = Stitcher(
            grid, core, valid_HW, self.classes, self._make_blend, self._align_corners
        )
        held = self._forward.hold(pixels.values_CHW, pixels.valid_HW)
        return OpenBlock(block, pixels, held, grid, stitcher, self.scaling(scene))

    def _batches(self, blocks: Iterable[OpenBlock]) -> Iterator[list[Window]]:
        """The windows of the blocks in their order, in batches that run across blocks: all of them
        full except the last."""
        windows = chain.from_iterable(block.windows() for block in blocks)
        while batch := list(islice(windows, self._forward.batch)):
            yield batch

    def _fits(self, read: ReadUnit, batch: int) -> bool:
        try:
            self._segment(read, batch)
        except (MemoryError, RuntimeError) as error:
            if self._is_short(error):
                return False
            raise
        return True

    def _is_short(self, error: BaseException) -> bool:
        """Whether the device was out of memory, for this or for what was being handled when this
        error was raised."""
        if isinstance(error, MemoryError) and self._device == "cpu":
            return True
        if any(words in str(error) for words in _NO_MEMORY[self._device]):
            return True
        return error.__context__ is not None and self._is_short(error.__context__)

    def _too_large(self, read: ReadUnit, batch: int) -> str:
        """What to do about a batch for which a GPU has no memory."""
        fits, block = self.fitting_batch(read, batch // 2), read.unit.blocks[0]
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


def _load(job: Job, access: Access) -> SegFormer:
    """The job's network. Each node may have a copy of its own of the checkpoint."""
    checkpoint = call_on_checkpoint(read_checkpoint, job.checkpoint, access, **job.settings.reading)
    if checkpoint.sha256 != job.checkpoint_sha256:
        raise UsageError(
            f"{job.checkpoint}: its files on this node are not those that the job began with; put"
            " the same ones there, or name the checkpoint that has them"
        )
    return SegFormer(checkpoint)


def _finite(logits_NKhw: torch.Tensor) -> torch.Tensor:
    """bool_N. The extremes of what holds a NaN are NaN; a test of each value is 25 times slower."""
    flat_NX = logits_NKhw.flatten(1)
    return flat_NX.amax(dim=1).isfinite() & flat_NX.amin(dim=1).isfinite()

"""One loaded model: the pixels of a unit to class ids.

Knows windows and blends; knows neither files nor Ray. Suffixes: K classes, H W pixels, h w
positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeVar

import torch

from pipeline.access import Access
from pipeline.cuts import Cut
from pipeline.errors import InputError, UsageError
from pipeline.forward import Forward
from pipeline.gpu import Gpu
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
_NO_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "out of memory", "ALLOC_FAILED")
"""In the RuntimeErrors that torch makes of allocations that failed: its own on a CPU, and those of
C++, CUDA and CUDA's libraries."""


@dataclass
class _Open:
    """A block under way."""

    block: Block
    pixels: Pixels
    held: Any
    """Its pixels, as the forward pass holds them."""
    grid: WindowGrid
    stitcher: Stitcher
    scaling: tuple[float, float]
    finite: list[tuple[torch.Tensor, int, int]] = field(default_factory=list)
    """Of each window: whether all its logits are (on the device: to ask would be to wait), its row
    and column."""
    result: Stitched | Failure | None = None

    def windows(self) -> Iterator[_Window]:
        """Those that have a valid pixel, row by row."""
        rows, cols = self.grid.touching(self.block.core)
        rect, edge = self.pixels.rect, self.grid.rows.window_px
        for row in rows:
            top = self.grid.rows.origin(row) - rect.row_off
            for col in cols:
                left = self.grid.cols.origin(col) - rect.col_off
                if self.pixels.valid_HW[top : top + edge, left : left + edge].any():
                    yield _Window(self, row, col, Cut(self.held, top, left, *self.scaling))

    def add(self, window: _Window, logits_Khw: torch.Tensor, finite: torch.Tensor) -> None:
        self.finite.append((finite, window.row, window.col))
        self.stitcher.add(window.row, window.col, logits_Khw)

    def close(self, dtype: str) -> Stitched | Failure:
        """Blends what is left and lets the logits go. A second call changes nothing."""
        if self.result is None:
            stitched, bad = self.stitcher.close(), self._first_bad()
            self.result = stitched if bad is None else _non_finite(self.block, bad, dtype)
        return self.result

    def _first_bad(self) -> Rect | None:
        """The first window with NaN or infinite logits."""
        if not self.finite:
            return None
        flags = torch.stack([finite for finite, _, _ in self.finite]).cpu()
        if flags.all():
            return None
        _, row, col = self.finite[int(flags.int().argmin())]
        edge = self.grid.rows.window_px
        return Rect(self.grid.cols.origin(col), self.grid.rows.origin(row), edge, edge)


@dataclass(frozen=True)
class _Window:
    block: _Open
    row: int
    col: int
    cut: Cut


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
        self._settings = work.job.settings
        model = from_checkpoint(load_model, work.job.checkpoint, work.access)
        self.classes = len(model.config.class_names)
        self._rescale = model.normalisation.rescale
        self._forward = Forward(model, self._settings, work.job.device)
        self._make_blend = blend_on(work.job.device, self.classes)
        self._gpu = Gpu() if work.job.device == "cuda" else None

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
            if self._gpu is None or not _is_of_memory(error):
                raise  # on a CPU others may have taken it: the unit is tried again, alone
        if found is None:  # the error has gone, and with it what it kept of the GPU's memory
            raise UsageError(_too_large(read, batch, self.fitting(read, batch // 2)))
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
            if _is_of_memory(error):
                return False
            raise
        return True

    @torch.inference_mode()
    def _segment(self, read: ReadUnit, batch: int) -> tuple[tuple[Stitched | Failure, ...], int]:
        """The outcome of each block, and how many windows were computed."""
        self._forward.resize(batch)
        blocks = [
            self._open(block, pixels) if isinstance(pixels, Pixels) else pixels
            for block, pixels in zip(read.unit.blocks, read.blocks, strict=True)
        ]
        windows, current, dtype = 0, None, self._settings.dtype
        for some in self._batches(block for block in blocks if isinstance(block, _Open)):
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

    def _open(self, block: Block, pixels: Pixels) -> _Open:
        scene, core, rect = block.scene, block.core, pixels.rect
        settings = self._settings
        grid = WindowGrid.of(scene.width, scene.height, settings.window, settings.stride)
        top, left = core.row_off - rect.row_off, core.col_off - rect.col_off
        valid_HW = pixels.valid_HW[top : top + core.height, left : left + core.width]
        stitcher = Stitcher(grid, core, valid_HW, self.classes, self._make_blend)
        held = self._forward.hold(pixels.values_CHW, pixels.valid_HW)
        return _Open(block, pixels, held, grid, stitcher, self.scaling(scene))

    def scaling(self, scene: Scene) -> tuple[float, float]:
        """--scale and --offset are for what is not uint8; a uint8 scene beside it needs neither."""
        if scene.dtype == "uint8" or self._settings.scale is None:
            return self._rescale, 0.0
        return self._settings.scale, self._settings.offset or 0.0

    def _batches(self, blocks: Iterator[_Open]) -> Iterator[list[_Window]]:
        """Windows in the order of the blocks, in full batches across blocks but for the last."""
        windows = chain.from_iterable(block.windows() for block in blocks)
        while some := list(islice(windows, self._forward.batch)):
            yield some


def _is_of_memory(error: BaseException) -> bool:
    """Whether an allocation has failed, or what was under way when one did."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return True
    return error.__context__ is not None and _is_of_memory(error.__context__)


def _too_large(read: ReadUnit, batch: int, fits: int) -> str:
    block = read.unit.blocks[0]
    what = (
        f"{block.scene.url}: the GPU has no memory left with --batch {batch} and a block of"
        f" {block.core}"
    )
    if fits:
        return (
            f"{what}; --batch {fits} fits here: name it, and another --output, for all windows of"
            " an output are computed in batches of one size"
        )
    return f"{what}, nor with any smaller batch; name a smaller --block, and another --output"


def _finite(logits_NKhw: torch.Tensor) -> torch.Tensor:
    """bool_N. The extremes of what holds a NaN are NaN; a value each is 25 times slower."""
    flat_NX = logits_NKhw.flatten(1)
    return flat_NX.amax(dim=1).isfinite() & flat_NX.amin(dim=1).isfinite()


def _non_finite(block: Block, window: Rect, dtype: str) -> Failure:
    remedy = (
        "use --dtype float32 or bfloat16"
        if dtype == "float16"
        else "check the checkpoint and --scale/--offset"
    )
    url = block.scene.url
    what = f"the network gave NaN or infinite logits in window {window} at {dtype}; {remedy}"
    return failure_of(InputError(f"{url}: {what}", url=url, stage="segment"), block)

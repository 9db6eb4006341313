"""The exact blend against its definition: upsample, add up, divide, argmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.engine.blend import MakeBlend
from pipeline.engine.blend_plain import PlainBlend
from pipeline.engine.stitcher import Stitcher, blend_on
from pipeline.grid import WindowGrid, cores
from pipeline.scene import Rect
from pipeline.unit import CONFIDENCE_SCALE, Stitched, mask_dtype, nodata_value

BLENDS = {"plain": PlainBlend, "compiled": blend_on("cpu", 5)}
every_blend = pytest.mark.parametrize("make_blend", BLENDS.values(), ids=BLENDS)
Logits = dict[tuple[int, int], torch.Tensor]


def random_logits(grid: WindowGrid, classes: int, low: int = 128) -> Logits:
    generator = torch.Generator().manual_seed(0)
    return {
        (row, col): torch.randn(classes, low, low, generator=generator)
        for row in range(grid.rows.count)
        for col in range(grid.cols.count)
    }


def definition(
    grid: WindowGrid, logits: Logits, width: int, height: int, corners: bool = False
) -> np.ndarray:
    """Mean logits of every pixel, float32 (K, height, width). corners: align_corners."""
    edge = grid.rows.window_px
    classes = len(logits[0, 0])
    total = torch.zeros(classes, max(height, edge), max(width, edge))
    count = torch.zeros(max(height, edge), max(width, edge))
    for (row, col), low in logits.items():
        y, x = grid.rows.origin(row), grid.cols.origin(col)
        if corners:  # torch's own positions in float32 are off by 1e-5 with them
            low = low.double()  # noqa: PLW2901
        full = F.interpolate(low[None], size=(edge, edge), mode="bilinear", align_corners=corners)
        total[:, y : y + edge, x : x + edge] += full[0]
        count[y : y + edge, x : x + edge] += 1
    return (total / count)[:, :height, :width].numpy()


def stitch(
    make_blend: MakeBlend,
    grid: WindowGrid,
    logits: Logits,
    core: Rect,
    valid_HW: np.ndarray | None = None,
    corners: bool = False,
) -> Stitched:
    classes = len(logits[0, 0])
    if valid_HW is None:
        valid_HW = np.ones((core.height, core.width), bool)
    stitcher = Stitcher(grid, core, valid_HW, classes, make_blend, corners)
    rows, cols = grid.touching(core)
    for row in rows:
        for col in cols:
            stitcher.add(row, col, logits[row, col])
    return stitcher.close()


SHAPES = [
    (1777, 2050, 512, 384, 5, 128),
    (300, 1400, 512, 384, 3, 128),
    (20, 20, 512, 384, 2, 128),
    (1100, 900, 512, 384, 40, 128),
    (700, 900, 64, 37, 5, 16),  # strides that share no quarter-resolution grid
    (1300, 1100, 518, 300, 5, 130),  # a window whose quarter is not whole
    (700, 600, 128, 96, 5, 16),  # networks whose first stride is not 4
    (700, 600, 128, 96, 5, 33),
    (2700, 300, 256, 250, 2, 64),  # more columns than the compiled loops take at once
]


CORNER_SHAPES = [
    (1177, 950, 512, 384, 5, 128),
    (20, 20, 512, 384, 2, 128),
    (300, 700, 64, 37, 5, 16),
    (300, 800, 256, 170, 3, 64),
    (200, 170, 96, 95, 40, 24),  # windows that have their positions in common
    (120, 90, 32, 8, 2, 8),  # four windows over each other in both directions
]


@every_blend
@pytest.mark.parametrize(
    ("width", "height", "window", "stride", "classes", "low", "corners"),
    [(*s, False) for s in SHAPES] + [(*s, True) for s in CORNER_SHAPES],
)
def test_argmax_equals_the_definition_whatever_the_blocks(  # noqa: PLR0913, PLR0917
    make_blend: MakeBlend,
    width: int,
    height: int,
    window: int,
    stride: int,
    classes: int,
    low: int,
    corners: bool,
) -> None:
    grid = WindowGrid.of(width, height, window, stride)
    logits = random_logits(grid, classes, low)
    expected = definition(grid, logits, width, height, corners).argmax(axis=0)
    results = []
    for block in (512, 1024, 4096):
        ids_HW = np.zeros((height, width), np.uint8)
        confidence = np.zeros(classes, np.int64)
        for core in cores(width, height, block, block):
            stitched = stitch(make_blend, grid, logits, core, corners=corners)
            ids_HW[core.row_off : core.row_end, core.col_off : core.col_end] = stitched.class_ids_HW
            confidence += stitched.confidence_TK.sum(axis=0)
        results.append((ids_HW, confidence))
    for ids_HW, confidence in results:
        assert (ids_HW != expected).sum() <= max(1, width * height // 100_000)
        assert np.array_equal(ids_HW, results[0][0])
        assert np.array_equal(confidence, results[0][1])


@every_blend
@pytest.mark.parametrize("corners", [False, True])
def test_confidence_is_the_winners_softmax_at_the_sampled_pixels(
    make_blend: MakeBlend, corners: bool
) -> None:
    grid = WindowGrid.of(700, 600, 512, 384)
    logits = random_logits(grid, 4)
    stitched = stitch(make_blend, grid, logits, Rect(0, 0, 700, 600), corners=corners)
    mean = definition(grid, logits, 700, 600, corners).astype(np.float64)
    probs = np.exp(mean) / np.exp(mean).sum(axis=0)
    sampled = probs.max(axis=0)[2::4, 2::4]
    assert stitched.samples_TK.sum() == sampled.size
    assert stitched.confidence_TK.sum() == pytest.approx(sampled.sum() * CONFIDENCE_SCALE, rel=1e-5)


@every_blend
def test_invalid_pixels_hold_nodata_and_are_not_sampled(make_blend: MakeBlend) -> None:
    grid = WindowGrid.of(600, 600, 512, 384)
    logits = random_logits(grid, 3)
    valid_HW = np.ones((600, 600), bool)
    valid_HW[100:300, 50:250] = False
    stitched = stitch(make_blend, grid, logits, Rect(0, 0, 600, 600), valid_HW)
    assert ((stitched.class_ids_HW == 255) == ~valid_HW).all()
    assert stitched.samples_TK.sum() == valid_HW[2::4, 2::4].sum()


@every_blend
def test_windows_without_a_valid_pixel_need_not_be_added(make_blend: MakeBlend) -> None:
    grid = WindowGrid.of(1280, 512, 512, 384)
    logits = random_logits(grid, 3)
    core = Rect(0, 0, 1280, 512)
    valid_HW = np.zeros((512, 1280), bool)
    valid_HW[:, :384] = True  # the first window alone covers these
    stitcher = Stitcher(grid, core, valid_HW, 3, make_blend)
    stitcher.add(0, 0, logits[0, 0])
    assert np.array_equal(
        stitcher.close().class_ids_HW, stitch(make_blend, grid, logits, core, valid_HW).class_ids_HW
    )


@pytest.mark.parametrize(
    ("classes", "dtype", "nodata"), [(255, "uint8", 255), (256, "uint16", 65535)]
)
def test_mask_dtype_leaves_room_for_nodata(classes: int, dtype: str, nodata: int) -> None:
    assert mask_dtype(classes).name == dtype
    assert nodata_value(classes) == nodata

"""Whether a band that GDAL calls alpha is alpha, or data such as near infrared.

GDAL calls a fourth band of 8 bits alpha when it writes four of them and is told nothing else, so
headers cannot tell: aerial archives (NAIP) have near infrared there. Its values can: those of alpha
are 0 or 255, except along the edges between these. A fixed sample of them is read once, when the
file is described.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp, Interleaving
from rasterio.windows import Window

from pipeline.doubt import Doubt
from pipeline.imagery.dataset import RASTER_ERRORS, read_dataset
from pipeline.imagery.input_file import InputFile
from pipeline.settings import Settings
from pipeline.storage.access import Access

_BAND = 4
"""The band that is judged; alpha anywhere else was put there on purpose."""
_ALPHA = 0.99
"""The smallest share of values in a sample of alpha that are 0 or 255, or on an edge."""
_BLUR_PX = 2
"""The distance of a value on an edge from both 0 and 255: an overview has wider edges than the
image, and relative to its size more of them."""
_EDGE_PX = 512
"""The largest edge of a sampled window."""
_WHOLE_PX = 1 << 20
"""An image or overview up to this size is read as a whole."""
_LEAST_PX = 1 << 14
"""A smaller overview says too little."""
_DECODED_BYTES = 64_000_000
"""The most that may be decoded for a window: eight headers are read at once, in 1 GB."""
_SEQUENTIAL = ("PNG", "WEBP")
"""Formats that are decoded from their beginning on."""


@dataclass(frozen=True)
class Verdict:
    """What a band is that GDAL calls alpha."""

    is_data: bool
    """Whether it masks nothing and may feed the network."""
    doubts: tuple[Doubt, ...] = ()


def judge_alpha(src: Any, file: InputFile, settings: Settings, access: Access) -> Verdict:
    """What the alpha band of the open dataset in `file` is: as --alpha says, else by its values.

    Raises TransientError, UnfinishedError or MemoryError if these could not be read; damage in a
    sampled place is left to those who read it for its own sake.
    """
    colors = list(src.colorinterp)
    if ColorInterp.alpha not in colors:
        return Verdict(False)
    if settings.alpha is not None:
        band = colors.index(ColorInterp.alpha) + 1
        detail = f"band {band}, by --alpha {settings.alpha}"
        return Verdict(settings.alpha == "data", (Doubt(f"alpha_is_{settings.alpha}", detail),))
    is_fourth = len(colors) >= _BAND and colors[_BAND - 1] == ColorInterp.alpha
    if not is_fourth or src.dtypes[_BAND - 1] != "uint8":
        return Verdict(False)
    return _verdict(src, _sample(src, file, access))


def _verdict(src: Any, sample: Sequence[np.ndarray]) -> Verdict:
    """The verdict on sampled parts of the band."""
    if not sample:
        detail = f"band {_BAND}, whose values cannot be sampled"
        return Verdict(False, (Doubt("alpha_is_band", detail),))
    if not any(part.any() for part in sample):
        return Verdict(False, (Doubt("alpha_is_band", f"band {_BAND}: a sample of it is all 0"),))
    opaque = (1 << int(src.tags(_BAND, ns="IMAGE_STRUCTURE").get("NBITS", 8))) - 1
    counts = [_count_between(part, opaque) for part in sample]
    total = sum(part.size for part in sample)
    between, off_edges = (sum(column) for column in zip(*counts, strict=True))
    detail = f"band {_BAND}: {between / total:.2%} of a sample is neither 0 nor {opaque}"
    if off_edges > (1 - _ALPHA) * total:
        return Verdict(True, (Doubt("alpha_is_data", detail),))
    return Verdict(False, (Doubt("alpha_is_band", detail),) if between else ())


def _count_between(values_HW: np.ndarray, opaque: int) -> tuple[int, int]:
    """The number of values that are neither 0 nor opaque, and of those that are not on an edge."""
    clear, full = values_HW == 0, values_HW == opaque
    between = ~(clear | full)
    off_edges = between & ~(_near(clear) & _near(full))
    return int(between.sum()), int(off_edges.sum())


def _near(marked_HW: np.ndarray) -> np.ndarray:
    """bool, True within a square of _BLUR_PX around each True."""
    for axis in (0, 1):
        near = np.swapaxes(marked_HW, 0, axis).copy()
        lines = near.copy()
        for step in range(1, min(_BLUR_PX, len(lines) - 1) + 1):
            near[step:] |= lines[:-step]
            near[:-step] |= lines[step:]
        marked_HW = np.swapaxes(near, 0, axis)
    return marked_HW


def _sample(src: Any, file: InputFile, access: Access) -> list[np.ndarray]:
    """Parts of the band, uint8: the smallest overview, else a window in each of four storage
    tiles."""
    parts = []
    for place in _places(src):
        # Opened anew for each window, so that a store that fails is told from a file that is
        # damaged in one place.
        def read(opened: Any, _: list[str], place: dict[str, Any] = place) -> np.ndarray:
            return np.asarray(opened.read(_BAND, **place))

        try:
            parts.append(read_dataset(file.url, file.sidecars, access, read))
        except RASTER_ERRORS:
            # GDAL remembers the error, which rasterio would raise from the next call that succeeds;
            # opening a file makes it forget.
            read_dataset(file.url, file.sidecars, access, lambda _src, _warnings: None)
    return parts


def _places(src: Any) -> list[dict[str, Any]]:
    """What to read, as arguments of rasterio's `read`; nothing if it would be too much."""
    height, width = src.height, src.width
    block_height, block_width = src.block_shapes[_BAND - 1]
    planes = 1 if src.interleaving == Interleaving.band else src.count
    if block_height * block_width * planes > _DECODED_BYTES:
        return []
    if _is_sequential(src):
        height = max(1, min(height, _DECODED_BYTES // (width * planes)))
    elif shapes := _overviews(src):
        return [{"out_shape": min(shapes)}]
    if height * width <= _WHOLE_PX:
        return [{"window": Window(0, 0, width, height)}]
    row_bytes = math.ceil(_EDGE_PX / block_width) * block_width * planes
    edge_px = min(_EDGE_PX, max(1, _DECODED_BYTES // row_bytes))
    return [
        {"window": Window(col, row, min(_EDGE_PX, width - col), min(edge_px, height - row))}
        for row in _quarters(height, block_height)
        for col in _quarters(width, block_width)
    ]


def _quarters(size: int, block: int) -> tuple[int, int]:
    """The first quarter and the third, each moved to where its storage tile begins."""
    first, third = size // 4, 3 * size // 4
    return (first, third) if block >= size else (first // block * block, third // block * block)


def _is_sequential(src: Any) -> bool:
    """Whether a row costs all rows before it: some formats, and TIFFs of one compressed strip, of
    which GDAL decodes row by row."""
    if src.driver in _SEQUENTIAL:
        return True
    one_row = src.driver == "GTiff" and src.block_shapes[_BAND - 1][0] == 1 < src.height
    return one_row and src.get_tag_item("BLOCK_SIZE_0_1", "TIFF", bidx=_BAND) is None


def _overviews(src: Any) -> list[tuple[int, int]]:
    """The heights and widths of the overviews inside the file that can be sampled. Those in a file
    of their own (.ovr) do not count: they are no part of the scene, and remote files are read
    without them."""
    if any(str(name).lower().endswith(".ovr") for name in src.files):
        return []
    factors = src.overviews(_BAND)
    shapes = [(math.ceil(src.height / f), math.ceil(src.width / f)) for f in factors]
    return [shape for shape in shapes if _LEAST_PX <= math.prod(shape) <= _WHOLE_PX]

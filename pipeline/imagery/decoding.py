"""Applies what a scene says of its values: color table, few bits, negative, the file's own scale.

What these do to a value depends on that value alone, so that blocks and windows do not matter.
Knows pixels that were read; reads none.

Legend: B bands as stored, C distinct bands of the scene, H rows, W columns, V stored values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from pipeline.errors import InputError
from pipeline.imagery.color_table import color_table, palette_bands
from pipeline.scene import Scene

_CHUNK_PX = 1 << 20
"""Pixels that are converted at once, each by way of 8 bytes."""
_WHITE = 255
"""The largest value of 8 bits, to which fewer bits are stretched."""


def stored_bands(src: Any, scene: Scene) -> tuple[int, ...]:
    """The bands of the file to read for the scene, each once."""
    if scene.palette:
        return palette_bands(src)[:1] or (1,)
    return tuple(dict.fromkeys(scene.bands))


def decode(
    src: Any, scene: Scene, stored_BHW: np.ndarray, valid_HW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values in the scene's `values_dtype`, one plane for each distinct band of `scene.bands`, and
    which are valid: not those without a color, or with a transparent one.

    stored_BHW: the values of `stored_bands`. Raises InputError(stage="read") for a valid value that
    has more bits than the file says.
    """
    if scene.palette:
        return _expand(src, scene, stored_BHW[0], valid_HW)
    if scene.scales:
        values_CHW = np.empty(stored_BHW.shape, np.float32)
        for band, plane_HW, out_HW in zip(
            stored_bands(src, scene), stored_BHW, values_CHW, strict=True
        ):
            channel = scene.bands.index(band)
            _scale(plane_HW, scene.scales[channel], scene.offsets[channel], out_HW)
        return values_CHW, valid_HW
    if scene.bits is None and not scene.negative:
        return stored_BHW, valid_HW
    for band, plane_HW in zip(stored_bands(src, scene), stored_BHW, strict=True):
        is_alpha = src.colorinterp[band - 1] == ColorInterp.alpha and not scene.alpha_is_data
        _unpack(plane_HW, scene, valid_HW, scene.negative and not is_alpha)
    return stored_BHW, valid_HW


def _expand(
    src: Any, scene: Scene, index_HW: np.ndarray, valid_HW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The colors of the indices."""
    bands = palette_bands(src)
    table = color_table(src, bands[0]) if bands else None
    if table is None:
        raise InputError(
            f"{scene.url}: changed since it was planned: had a color table; start a new output for"
            " the new file",
            url=scene.url,
            stage="read",
        )
    # --nodata overrides whatever the file says.
    shown_V = (table[:, 3] != 0) | (scene.nodata is not None)
    components = tuple(dict.fromkeys(scene.bands))
    values_CHW = np.empty((len(components), *index_HW.shape), np.uint8)
    for rows in _chunks(index_HW):
        index = index_HW[rows]
        known = (index >= 0) & (index < len(table))
        index = np.where(known, index, 0).astype(np.intp)
        valid_HW[rows] &= known & shown_V[index]
        for component, values_HW in zip(components, values_CHW, strict=True):
            values_HW[rows] = table[index, component - 1]
    return values_CHW, valid_HW


def _unpack(plane_HW: np.ndarray, scene: Scene, valid_HW: np.ndarray, negative: bool) -> None:
    """Stretch values of fewer than 8 bits to 0 to 255, to the nearest, and invert those of a
    negative; in place."""
    bits = scene.bits or 8 * plane_HW.dtype.itemsize
    white = (1 << bits) - 1
    if scene.bits is not None:
        too_large = (plane_HW > white) & valid_HW
        if too_large.any():
            raise InputError(
                f"{scene.url}: holds {plane_HW[too_large].max()}, but says that its values have"
                f" {bits} bits; correct its NBITS, or convert it",
                url=scene.url,
                stage="read",
            )
    if plane_HW.dtype == np.uint8 and bits < 8:
        stretched_V = ((np.arange(white + 1) * _WHITE + white // 2) // white).astype(np.uint8)
        shown_V = stretched_V[::-1] if negative else stretched_V
        for rows in _chunks(plane_HW):  # values that are not valid may have more bits
            plane_HW[rows] = shown_V[np.minimum(plane_HW[rows], white)]
    elif negative:
        np.subtract(plane_HW.dtype.type(white), plane_HW, out=plane_HW)


def _scale(stored_HW: np.ndarray, scale: float, offset: float, out_HW: np.ndarray) -> None:
    """Write stored * scale + offset, computed in float64 and rounded to float32."""
    for rows in _chunks(stored_HW):
        with np.errstate(over="ignore", invalid="ignore"):
            out_HW[rows] = stored_HW[rows].astype(np.float64) * scale + offset


def _chunks(plane_HW: np.ndarray) -> Iterator[slice]:
    """Slices of rows, so that conversions take little memory."""
    height, width = plane_HW.shape
    rows = max(1, _CHUNK_PX // width)
    for start in range(0, height, rows):
        yield slice(start, start + rows)

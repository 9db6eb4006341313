"""Pixels and square metres of each class of a mask tile, in one compiled pass over its pixels.

Areas are added one pixel after the other, row by row: in one order, so that the sums are the same
bits on every machine and as np.bincount gives them. Knows neither grids nor tables.
"""

# mypy: disable-error-code="no-untyped-def"
# numba finds the types.

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.area import Lines
from segformer.compiled import Compiled


class ClassSums(NamedTuple):
    """Of each class, without nodata."""

    pixels_K: np.ndarray
    """int64."""
    area_m2_K: np.ndarray
    """float64."""
    without_area: int
    """Pixels of any class whose area is 0: outside the CRS's domain."""


def class_sums(ids_HW: np.ndarray, areas: Lines, classes: int) -> ClassSums:
    """ids_HW: C-contiguous, of unit.mask_dtype(classes)."""
    bins = classes + 1  # the last one is nodata's
    pixels, area_m2, without = np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins, np.int64)
    cells = areas.above_KW, areas.slope_KW, areas.line_H, areas.share_H
    sums = pixels, area_m2, without, np.empty(ids_HW.shape[1])
    _add(ids_HW.dtype.name, ids_HW, *cells, *sums)
    return ClassSums(pixels[:-1], area_m2[:-1], int(without[:-1].sum()))


def _add_tile(ids_HW, above_KW, slope_KW, line_H, share_H, pixels, area_m2, without, row_W):
    """row_W: scratch. Areas of a row are vector code; a class's sum stays in a register as long as
    its pixels follow each other: a sum in memory would wait for its own last value, pixel by pixel.
    """
    width, nodata = ids_HW.shape[1], len(pixels) - 1
    for y in range(ids_HW.shape[0]):
        ids, share = ids_HW[y], share_H[y]
        above, slope = above_KW[line_H[y]], slope_KW[line_H[y]]
        if y == 0 or line_H[y] != line_H[y - 1]:
            some_0 = False  # between two areas that are not 0 there is none
            for x in range(len(above)):
                some_0 |= above[x] == 0 or above[x] + slope[x] == 0
        if len(above) == width:
            for x in range(width):
                row_W[x] = above[x] + share * slope[x]
        else:
            row_W[:] = above[0] + share * slope[0]
        if some_0:
            for x in range(width):
                without[min(ids[x], nodata)] += row_W[x] == 0
        x = 0
        while x < width:
            id_, start = ids[x], x
            k = min(id_, nodata)
            total = area_m2[k]
            while x < width and ids[x] == id_:
                total += row_W[x]
                x += 1
            area_m2[k] = total
            pixels[k] += x - start


_add = Compiled(_add_tile)

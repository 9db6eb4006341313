"""Pixels and square metres of each class of a mask tile.

Areas are added one pixel after the other, row by row: in one order, so that the sums are the same
bits on every machine. Knows neither grids nor tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline.earth.area import AreaLines
from pipeline.unit import nodata_value


class ClassSums(NamedTuple):
    """Of each class."""

    pixels_K: np.ndarray
    """int64."""
    area_m2_K: np.ndarray
    """float64; 0 where cells have no areas, for want of a CRS."""
    without_area_K: np.ndarray
    """int64: pixels outside the CRS's domain, whose area is 0."""


SumClasses = Callable[[np.ndarray, AreaLines | None, int], ClassSums]
"""Of class ids, C-contiguous and of unit.mask_dtype, the areas of their cells, how many classes."""


def plain_sums(ids_HW: np.ndarray, areas: AreaLines | None, classes: int) -> ClassSums:
    """By numpy's bincount. Nodata is a bin beyond the classes, which is cheaper than to leave it
    out before."""
    ids_N = ids_HW.ravel().astype(np.intp)  # what bincount would make of them, each time
    bins = nodata_value(classes) + 1
    pixels_K = np.bincount(ids_N, None, bins)[:classes]
    if areas is None:
        return ClassSums(pixels_K, np.zeros(classes), np.zeros(classes, np.int64))
    areas_N = areas.values(ids_HW.shape[1]).ravel()
    without = ids_N[:0] if areas_N.all() else ids_N[areas_N == 0]
    area_m2_K = np.bincount(ids_N, areas_N, bins)[:classes]
    return ClassSums(pixels_K, area_m2_K, np.bincount(without, None, bins)[:classes])

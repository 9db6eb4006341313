"""Pixels and square meters of each class of a mask tile.

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
    """Sums over a mask tile, with one value per class."""

    pixels_K: np.ndarray
    """int64: pixels of the class."""
    area_m2_K: np.ndarray
    """float64: their area; 0 without a CRS."""
    without_area_K: np.ndarray
    """int64: those of them outside the CRS's domain, whose area is 0."""


SumClasses = Callable[[np.ndarray, AreaLines | None, int], ClassSums]
"""A function of class ids [H, W] (C-contiguous, of unit.mask_dtype), of the areas of their pixels
(None without a CRS), and of the number of classes."""


def plain_sums(ids_HW: np.ndarray, areas: AreaLines | None, classes: int) -> ClassSums:
    """A SumClasses by numpy's bincount. Nodata is a bin beyond the classes, which is cheaper than
    excluding it first."""
    ids_N = ids_HW.ravel().astype(np.intp)  # bincount would convert them each time
    bins = nodata_value(classes) + 1
    pixels_K = np.bincount(ids_N, None, bins)[:classes]
    if areas is None:
        return ClassSums(pixels_K, np.zeros(classes), np.zeros(classes, np.int64))
    areas_N = areas.values(ids_HW.shape[1]).ravel()
    without = ids_N[:0] if areas_N.all() else ids_N[areas_N == 0]
    area_m2_K = np.bincount(ids_N, areas_N, bins)[:classes]
    return ClassSums(pixels_K, area_m2_K, np.bincount(without, None, bins)[:classes])

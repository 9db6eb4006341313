"""The sums of a mask tile's classes as a compiled loop, in one pass over its pixels: bit for bit
those of `class_sums.py`."""

# mypy: disable-error-code="no-untyped-def"
# numba finds the types.

from __future__ import annotations

import numpy as np

from pipeline.earth.area import AreaLines, lines_of
from pipeline.output.class_sums import ClassSums
from segformer.compiled import Compiled, inner


def compiled_sums(ids_HW: np.ndarray, areas: AreaLines | None, classes: int) -> ClassSums:
    """A SumClasses by a compiled loop."""
    bins = classes + 1  # the last one is nodata's
    sums = ClassSums(np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins, np.int64))
    cells = lines_of(np.ones((len(ids_HW), 1))) if areas is None else areas
    _add_tile(ids_HW.dtype.name, ids_HW, cells, sums, np.empty(ids_HW.shape[1]))
    if areas is None:
        sums.area_m2_K[:] = 0
    return ClassSums(*(of_all[:-1] for of_all in sums))


def _add(ids_HW, areas, sums, row_W):
    """Add a tile to the sums; row_W is scratch.

    The areas of a row are vector code. The sum of a class stays in a register while its pixels
    follow each other; in memory, each addition would wait for the one before.
    """
    width, nodata = ids_HW.shape[1], len(sums.pixels_K) - 1
    has_zero = False
    for y in range(ids_HW.shape[0]):
        ids, line, share = ids_HW[y], areas.line_H[y], areas.share_H[y]
        above, slope = areas.above_KW[line], areas.slope_KW[line]
        if y == 0 or line != areas.line_H[y - 1]:
            has_zero = _has_zero(above, slope)
        if len(above) == width:
            for x in range(width):
                row_W[x] = above[x] + share * slope[x]
        else:
            row_W[:] = above[0] + share * slope[0]
        if has_zero:
            for x in range(width):
                sums.without_area_K[min(ids[x], nodata)] += row_W[x] == 0
        x = 0
        while x < width:
            id_, start = ids[x], x
            k = min(id_, nodata)
            total = sums.area_m2_K[k]
            while x < width and ids[x] == id_:
                total += row_W[x]
                x += 1
            sums.area_m2_K[k] = total
            sums.pixels_K[k] += x - start


@inner
def _has_zero(above, slope):
    """Whether a line may hold a pixel without an area: there is none between two areas above 0."""
    has_zero = False
    for x in range(len(above)):
        has_zero |= above[x] == 0 or above[x] + slope[x] == 0
    return has_zero


_add_tile = Compiled(_add)

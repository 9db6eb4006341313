"""Color tables: which band is one of indices, and the colors that its values stand for.

A file with a color table counts as the image that `gdal_translate -expand rgba` makes of it: four
bands of 8 bits, in which an index without an entry is transparent. Knows no scene.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

EXPANDED = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
"""The bands of the expanded image."""


def palette_bands(src: Any) -> tuple[int, ...]:
    """The bands of indices into color tables, 1-based, if all other bands are alpha; else none.

    The first one is read. Animated GIFs have others: a band for each picture.
    """
    colors = list(src.colorinterp)
    bands = tuple(band for band, c in enumerate(colors, start=1) if c != ColorInterp.alpha)
    if all(colors[band - 1] == ColorInterp.palette for band in bands):
        return bands
    # GDAL says of a negative that its color is undefined, makes a color table that inverts it, and
    # copies both to files that are no negatives: there, only the table says so.
    first_is_undefined = [colors[band - 1] for band in bands] == [ColorInterp.undefined]
    if first_is_undefined and not is_negative(src) and color_table(src, bands[0]) is not None:
        return bands
    return ()


def color_table(src: Any, band: int) -> np.ndarray | None:
    """uint8, one row of red, green, blue and alpha for each index; None: the band has no table."""
    try:
        entries = src.colormap(band)
    except ValueError:
        return None
    table = np.array([entries[index] for index in range(len(entries))]).reshape(-1, len(EXPANDED))
    return np.clip(table, 0, 255).astype(np.uint8)


def is_gray(table: np.ndarray) -> bool:
    """Whether every entry that can be seen is gray."""
    shown = table[table[:, 3] != 0]
    return bool((shown[:, :3] == shown[:, :1]).all())


def is_negative(src: Any) -> bool:
    """Whether the file says that 0 is white (TIFF's MINISWHITE)."""
    return str(src.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE", "")).upper() == "YES"

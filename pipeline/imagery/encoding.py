"""How a file's stored values become those that the network is given, as its header says it: color
table, few bits, negative, scale. `decoding.py` applies it.

Knows --bands and --scale; reads no pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp, MaskFlags

from pipeline.doubt import Doubt
from pipeline.errors import UsageError
from pipeline.imagery.bands import choose_bands, dtype_of
from pipeline.imagery.color_table import (
    EXPANDED,
    color_table,
    is_gray,
    is_negative,
    palette_bands,
)
from pipeline.imagery.input_file import header_error
from pipeline.imagery.scaling import own_scaling, scale_doubt
from pipeline.settings import FILE, Settings


@dataclass(frozen=True)
class Encoding:
    """The fields of a scene that say how its values are read; see there."""

    bands: tuple[int, ...]
    dtype: str
    palette: bool
    negative: bool
    bits: int | None
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    doubts: tuple[Doubt, ...]


def encoding_of(
    src: Any, url: str, settings: Settings, channels: int, alpha_is_data: bool
) -> Encoding:
    """The encoding of the bands that feed the network's channels.

    Raises InputError for values that cannot be decoded, UsageError if an option (--bands, --scale)
    is missing or does not fit the file.
    """
    colors = [_color(c, alpha_is_data) for c in src.colorinterp]
    index_bands = () if alpha_is_data else palette_bands(src)
    if index_bands:
        return _of_color_table(src, url, index_bands, settings, channels)
    bands = choose_bands(colors, url, settings.bands, channels)
    dtype = dtype_of(src, url, bands, settings.scale, palette=False)
    scales, offsets = own_scaling(src, url, bands, dtype) if settings.scale == FILE else ((), ())
    doubts = _alpha_doubts(src, bands, colors, settings)
    if not scales:
        doubts += scale_doubt(src, bands, dtype, settings)
    negative = is_negative(src)
    if negative:
        negative, doubt = _negative(dtype, scaled=bool(scales))
        doubts.append(doubt)
    bits = None if scales else _bits(src, url, bands, dtype)
    return Encoding(bands, dtype, False, negative, bits, scales, offsets, tuple(doubts))


def _of_color_table(
    src: Any, url: str, index_bands: tuple[int, ...], settings: Settings, channels: int
) -> Encoding:
    bands = choose_bands(EXPANDED, url, settings.bands, channels, expanded=True)
    dtype = dtype_of(src, url, index_bands[:1], settings.scale, palette=True)
    table = color_table(src, index_bands[0])
    if table is None:
        raise header_error(
            url,
            "calls its values indices into a color table and has none; say what they are, e.g."
            " gdal_translate -colorinterp gray IN OUT",
        )
    if channels == 1 and settings.bands is None and not is_gray(table):
        raise UsageError(
            f"{url}: has a color table of more than grays, but the network has 1 channel: name the"
            " component with --bands 1 (red), 2 (green) or 3 (blue), or convert it to gray first"
        )
    doubts = []
    if len(index_bands) > 1:
        doubts.append(Doubt("frames", f"{len(index_bands)} images"))
    if len(EXPANDED) in bands:
        doubts.append(Doubt("alpha_fed", f"band {len(EXPANDED)}, that of the color table"))
    if is_negative(src):  # the table inverts it
        doubts.append(_negative(dtype, scaled=False)[1])
    return Encoding(bands, dtype, True, False, None, (), (), tuple(doubts))


def _color(color: ColorInterp, alpha_is_data: bool) -> ColorInterp:
    return ColorInterp.undefined if alpha_is_data and color == ColorInterp.alpha else color


def _negative(dtype: str, scaled: bool) -> tuple[bool, Doubt]:
    """Whether the values of a file that says that 0 is white are inverted, and the doubt."""
    if np.dtype(dtype).kind != "u":
        return False, Doubt("negative_as_stored", dtype)
    if scaled:
        return False, Doubt("negative_as_stored", "its own scale is applied")
    return True, Doubt("negative", dtype)


def _bits(src: Any, url: str, bands: tuple[int, ...], dtype: str) -> int | None:
    """The bits of a stored value if an unsigned type could hold more. Raises InputError for bands
    that differ and would be stretched."""
    if np.dtype(dtype).kind != "u":
        return None  # 16 bits of a float, and signed values, are what they are
    full = 8 * np.dtype(dtype).itemsize
    stated = [int(src.tags(b, ns="IMAGE_STRUCTURE").get("NBITS", full)) for b in bands]
    if len(set(stated)) > 1 and dtype == "uint8":
        listed = ",".join(map(str, bands))
        raise header_error(
            url,
            f"its bands {listed} differ in bits ({', '.join(map(str, stated))}); name bands of one"
            " kind with --bands, or convert it first",
        )
    return max(stated) if 0 < max(stated) < full else None


def _alpha_doubts(
    src: Any, bands: tuple[int, ...], colors: list[ColorInterp], settings: Settings
) -> list[Doubt]:
    """Doubts about an alpha band that feeds the network, or that masks nothing: GDAL applies one
    only beside one or three other bands."""
    for band in bands:
        if colors[band - 1] == ColorInterp.alpha:
            return [Doubt("alpha_fed", f"band {band}")]
    flags = [src.mask_flag_enums[band - 1] for band in bands]
    is_masked = settings.nodata is not None or not all(MaskFlags.all_valid in f for f in flags)
    if ColorInterp.alpha not in colors or is_masked:
        return []
    return [Doubt("alpha_unused", f"band {colors.index(ColorInterp.alpha) + 1} of {src.count}")]


def nodata_doubt(dtype: str, nodata: float | None) -> Iterator[Doubt]:
    """The doubt about a type that cannot hold --nodata: all pixels will be valid."""
    if nodata is None or np.dtype(dtype).kind not in "iu":
        return
    limits = np.iinfo(dtype)
    if not float(nodata).is_integer() or not limits.min <= nodata <= limits.max:
        yield Doubt("nodata_type", f"{dtype} has no {nodata:g}")

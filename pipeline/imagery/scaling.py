"""A file's own scale and offset, and --scale. Knows the header; reads no pixel."""

from __future__ import annotations

import math
from typing import Any

from pipeline.doubt import Doubt
from pipeline.imagery.input_file import header_error
from pipeline.settings import FILE, Settings

_NONE = (1.0, 0.0)
"""GDAL's scale and offset of a band that states none."""
_UINT8 = (1 / 255, 0.0)
"""What values of 8 bits are multiplied by, whatever --scale says."""

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""The scale and the offset of each band; empty: they are not the file's own."""


def own_scaling(src: Any, url: str, bands: tuple[int, ...], dtype: str) -> Scaling:
    """The file's own scale and offset of each band, for --scale file; empty for uint8 without one.

    Raises InputError for another type that states none, and for a scale that is 0 or not finite.
    """
    pairs = _stated(src, bands)
    if all(pair == _NONE for pair in pairs):
        if dtype == "uint8":
            return (), ()
        raise header_error(
            url,
            f"holds {dtype} and states no scale of its own for --scale file: state it, e.g."
            " gdal_edit.py -scale 0.0001 -offset 0 FILE, or segment such files into another"
            " --output with --scale as a number",
        )
    for band, (scale, offset) in zip(bands, pairs, strict=True):
        if scale == 0 or not (math.isfinite(scale) and math.isfinite(offset)):
            raise header_error(
                url,
                f"states scale {scale:g} and offset {offset:g} for band {band}, which --scale file"
                " cannot apply: correct it, e.g. gdal_edit.py -scale 0.0001 -offset 0 FILE",
            )
    return tuple(scale for scale, _ in pairs), tuple(offset for _, offset in pairs)


def scale_doubt(
    src: Any, bands: tuple[int, ...], dtype: str, settings: Settings
) -> tuple[Doubt, ...]:
    """A doubt if the file's own scale or offset is not the one that is applied."""
    if settings.scale is None or settings.scale == FILE or dtype == "uint8":
        applied = _UINT8
    else:
        applied = settings.scale, settings.offset or 0.0
    for pair in _stated(src, bands):
        if pair != _NONE and not all(map(_equal, pair, applied)):
            return (Doubt("scale", f"says scale {pair[0]:g} and offset {pair[1]:g}"),)
    return ()


def _stated(src: Any, bands: tuple[int, ...]) -> list[tuple[float, float]]:
    return [(float(src.scales[band - 1]), float(src.offsets[band - 1])) for band in bands]


def _equal(stated: float, applied: float) -> bool:
    return math.isclose(stated, applied, rel_tol=1e-6, abs_tol=1e-12)

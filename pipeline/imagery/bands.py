"""Chooses the band of an image file for each channel of the network, and tells their type.

Knows the header's colors and types, --bands and --scale; reads no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from pipeline.errors import UsageError
from pipeline.imagery.input_file import header_error

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_INKS = (ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow)


def choose_bands(
    colors: Sequence[ColorInterp],
    url: str,
    requested: tuple[int, ...] | None,
    channels: int,
    expanded: bool = False,
) -> tuple[int, ...]:
    """The band of each channel, 1-based: as requested by --bands, else by color, else the first
    ones that are not alpha.

    colors: that of each band; expanded: whether they are those that a color table makes. Raises
    UsageError if the bands do not fit the network or the file, InputError for a band of indices
    into a color table beside other bands, and for inks.
    """
    not_alpha = [i for i, c in enumerate(colors, start=1) if c != ColorInterp.alpha] or [1]
    last = len(not_alpha) - 1
    example = "--bands " + ",".join(str(not_alpha[min(i, last)]) for i in range(channels))
    if requested is not None:
        _check_requested(len(colors), url, requested, channels, example)
        bands = requested
    elif channels == 3 and all(color in colors for color in RGB):
        bands = tuple(colors.index(color) + 1 for color in RGB)
    else:
        bands = tuple(not_alpha[:channels])
        if len(bands) < channels:
            alpha = len(colors) - len(bands)
            raise _too_few(url, len(bands), alpha, channels, example, expanded)
        _check_inks(colors, url, channels, example)
    for band in bands:
        if colors[band - 1] == ColorInterp.palette:
            raise header_error(
                url,
                f"its band {band} of {len(colors)} holds indices into a color table; name others"
                f" with --bands, or convert it first: gdal_translate -b {band} -expand rgb IN OUT",
            )
    return bands


def dtype_of(
    src: Any, url: str, bands: tuple[int, ...], scale: float | str | None, palette: bool
) -> str:
    """numpy's name of the type that all these bands have.

    palette: whether their values are indices into a color table. Raises InputError for different
    types, complex numbers and indices that are no integers, UsageError for another type than uint8
    without a --scale.
    """
    dtypes = sorted({src.dtypes[band - 1] for band in bands})
    if len(dtypes) > 1:
        listed = ",".join(map(str, bands))
        raise header_error(
            url,
            f"its bands {listed} differ in type ({', '.join(dtypes)}); name bands of one type with"
            " --bands, or convert it first, e.g. gdal_translate -ot Float32 IN OUT",
        )
    dtype = str(dtypes[0])
    if dtype.startswith("complex"):
        raise header_error(
            url,
            f"holds complex numbers ({dtype}); convert it to amplitudes first, e.g. gdal_translate"
            " DERIVED_SUBDATASET:AMPLITUDE:IN OUT",
        )
    if palette:
        if np.dtype(dtype).kind not in "iu":
            raise header_error(
                url,
                f"has a color table, but its values are {dtype} and no indices; convert it first,"
                " e.g. gdal_translate -ot Byte IN OUT",
            )
    elif dtype != "uint8" and scale is None:
        raise UsageError(
            f"{url}: holds {dtype}, not uint8: say with --scale (and --offset) how stored values"
            " become what the checkpoint was trained on, e.g. --scale 0.0001 for Sentinel-2 and"
            " values from 0 to 1, or its own rescale_factor (swath model inspect); --scale file is"
            " what each file says. An OUT that exists keeps its settings: name a new --output"
        )
    return dtype


def _check_requested(
    count: int, url: str, requested: tuple[int, ...], channels: int, example: str
) -> None:
    if len(requested) != channels:
        raise UsageError(
            f"--bands names {_count(len(requested), 'band')}, but the network has"
            f" {_count(channels, 'channel')}:"
            f" name one band per channel, e.g. {example}"
        )
    if max(requested) > count:
        raise UsageError(
            f"{url}: has {_count(count, 'band')}, but --bands asks for band {max(requested)}:"
            f" name bands from 1 to {count}, e.g. {example}"
        )


def _too_few(
    url: str, bands: int, alpha: int, channels: int, example: str, expanded: bool
) -> UsageError:
    """The error of a file with fewer bands than the network has channels, beside those of alpha."""
    counted = _count(bands, "band") + (f" and {alpha} alpha" if alpha else "")
    counted += " by its color table" if expanded else ""
    remedy = "say --alpha data if that is none, or " if alpha and not expanded else ""
    return UsageError(
        f"{url}: has {counted}, but the network has {_count(channels, 'channel')}:"
        f" {remedy}name one band per channel, e.g. {example}"
    )


def _check_inks(colors: Sequence[ColorInterp], url: str, channels: int, example: str) -> None:
    """Raise InputError for a network of three colors and a file of printing inks."""
    if channels == len(_INKS) and all(color in colors for color in _INKS):
        raise header_error(
            url,
            "its bands are inks (cyan, magenta, yellow, black); convert it to red, green and blue,"
            f" or name the band of each channel, e.g. {example}",
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

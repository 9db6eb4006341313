"""Chooses the band of an image file for each channel of the network, and tells their type.

Knows the header's colors and types, --bands and --scale; reads no pixel.
"""

from __future__ import annotations

from typing import Any

from rasterio.enums import ColorInterp

from pipeline.errors import UsageError
from pipeline.imagery.input_file import header_error

_RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


def choose_bands(
    src: Any, url: str, requested: tuple[int, ...] | None, channels: int
) -> tuple[int, ...]:
    """The band of each channel, 1-based: as requested by --bands, else by color, else the first
    ones that are not alpha.

    Raises UsageError if the bands do not fit the network or the file, InputError for a band of
    indices into a color table.
    """
    colors = list(src.colorinterp)
    not_alpha = [i for i, c in enumerate(colors, start=1) if c != ColorInterp.alpha] or [1]
    last = len(not_alpha) - 1
    example = "--bands " + ",".join(str(not_alpha[min(i, last)]) for i in range(channels))
    if requested is not None:
        _check_requested(src, url, requested, channels, example)
        bands = requested
    elif channels == 3 and all(color in colors for color in _RGB):
        bands = tuple(colors.index(color) + 1 for color in _RGB)
    else:
        bands = tuple(not_alpha[:channels])
    if any(colors[band - 1] == ColorInterp.palette for band in bands):
        raise header_error(
            url,
            "its values are indices into a colour table; convert it first:"
            " gdal_translate -expand rgb IN OUT",
        )
    if len(bands) < channels:
        alpha = f" and {src.count - len(bands)} alpha" if src.count > len(bands) else ""
        raise UsageError(
            f"{url}: has {_count(len(bands), 'band')}{alpha}, but the network has"
            f" {_count(channels, 'channel')}:"
            f" name one band per channel, e.g. {example}"
        )
    return bands


def dtype_of(src: Any, url: str, bands: tuple[int, ...], scale: float | str | None) -> str:
    """numpy's name of the type that all these bands have.

    Raises InputError for different types and for complex numbers, UsageError for another type than
    uint8 without a --scale.
    """
    dtypes = sorted({src.dtypes[band - 1] for band in bands})
    if len(dtypes) > 1:
        listed = ",".join(map(str, bands))
        raise header_error(
            url, f"its bands {listed} differ in type ({', '.join(dtypes)}); convert it first"
        )
    dtype = str(dtypes[0])
    if dtype.startswith("complex"):
        raise header_error(url, f"holds complex numbers ({dtype}); convert it to amplitudes first")
    if dtype != "uint8" and scale is None:
        raise UsageError(
            f"{url}: holds {dtype}, not uint8: say with --scale (and --offset) how stored values"
            " become what the checkpoint was trained on; e.g. --scale 0.0001 for Sentinel-2"
            " reflectance; with another --output, if this one exists"
        )
    return dtype


def _check_requested(
    src: Any, url: str, requested: tuple[int, ...], channels: int, example: str
) -> None:
    if len(requested) != channels:
        raise UsageError(
            f"--bands names {_count(len(requested), 'band')}, but the network has"
            f" {_count(channels, 'channel')}:"
            f" name one band per channel, e.g. {example}"
        )
    if max(requested) > src.count:
        raise UsageError(
            f"{url}: has {_count(src.count, 'band')}, but --bands asks for band {max(requested)}:"
            f" name bands from 1 to {src.count}, e.g. {example}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

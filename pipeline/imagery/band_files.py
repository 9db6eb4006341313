"""Scenes that come as one file per band (Landsat, Sentinel-2, many STAC items): recognizes them by
their names, and says how to stack them.

Knows names and whether files exist; opens none.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from rasterio.enums import ColorInterp

from pipeline.errors import SwathError, UsageError
from pipeline.storage.access import Access
from pipeline.storage.retry import call_store

_NAMES = ("red", "green", "blue", "nir", "nir08", "swir16", "swir22", "coastal", "rededge")
"""Names of bands, as in the `eo` extension of STAC."""
_BAND = re.compile(
    rf"(?<![a-z0-9])(?:(?P<word>b|band|band_)(?P<number>\d\d?|8a)|(?P<name>{'|'.join(_NAMES)}))"
    r"(?![a-z0-9])",
    re.IGNORECASE,
)
"""The part of a file's name that says which band it holds: `B04`, `SR_B4`, `band1`, `red`."""
_NUMBERS = range(1, 13)
_EARLY_LANDSAT = re.compile(r"L[CEMT]0?[4-7]")
"""The beginning of names of Landsat 4 to 7, whose red, green and blue are bands 3, 2 and 1."""


def check_not_one_of_several(src: Any, url: str, channels: int, access: Access) -> None:
    """Raises UsageError if the file holds one band of several in files of their own, which the
    network wants together."""
    if src.count > 1 or channels == 1 or src.colorinterp[0] == ColorInterp.palette:
        return
    folder, slash, name = url.rpartition("/")
    bands = list(_BAND.finditer(name))
    if not bands:
        return
    band = bands[-1]
    for names in _stacks(name, band, channels):
        there = (other for other in names if _exists(f"{folder}{slash}{other}", access))
        files = list(islice(there, channels))
        if len(files) == channels:
            raise UsageError(
                f"{url}: has 1 band, but the network has {channels} channels, and the other bands"
                " are files of their own: stack them in the order of the channels, e.g."
                f" {_command(url, band, files)}, and name the result as INPUT"
            )


def _stacks(name: str, band: re.Match[str], channels: int) -> Iterator[Sequence[str]]:
    """The names that the files of all bands may have, in the order of channels; the likeliest order
    first."""
    if band["name"]:
        yield [_with(name, band, _in_case_of(band["name"], other)) for other in _NAMES]
        return
    number = band["number"].lower()
    widths = {1: (1,), 2: (2,) if number[0] == "0" or number == "8a" else (2, 1)}[len(number)]
    red = 3 if _EARLY_LANDSAT.match(name) else 4
    orders = [(red, red - 1, red - 2), _NUMBERS] if channels == 3 else [_NUMBERS]
    for width in widths:
        for numbers in orders:
            yield [_with(name, band, f"{band['word']}{n:0{width}}") for n in numbers]


def _in_case_of(example: str, word: str) -> str:
    if example.isupper():
        return word.upper()
    return word.capitalize() if example[0].isupper() else word


def _with(name: str, band: re.Match[str], word: str) -> str:
    return f"{name[: band.start()]}{word}{name[band.end() :]}"


def _exists(url: str, access: Access) -> bool:
    """Whether there is such a file; False if its store does not say."""
    fs, path = access.filesystem(url)
    with suppress(OSError, SwathError):
        return bool(call_store(url, lambda: fs.exists(path), access.impatient().patience_s))
    return False


def _command(url: str, band: re.Match[str], files: Sequence[str]) -> str:
    """The command that makes one file of these."""
    stem = _with(url.rpartition("/")[2], band, "").rpartition(".")[0]
    stem = re.sub(r"([._-])[._-]+", r"\1", stem).strip("._-") or "stacked"
    command = shlex.join(["gdalbuildvrt", "-separate", f"{stem}.vrt", *files])
    if "://" in url:  # a remote file is read without any other
        command += " && " + shlex.join(["gdal_translate", f"{stem}.vrt", f"{stem}.tif"])
    return command

"""Opens image files as rasterio datasets, and tells what is at fault when that fails: the file, its
store or a lack of memory.

Knows no scene: what is read from an open dataset is the caller's business.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import rasterio
from rasterio._err import CPLE_BaseError, CPLE_OutOfMemoryError
from rasterio.errors import CRSError, RasterioError, RasterioIOError

from pipeline.errors import DeniedError, InputError, UnfinishedError, UsageError, one_line
from pipeline.imagery.damage import damage
from pipeline.imagery.gdal import gdal_env
from pipeline.imagery.jpeg_header import jpeg_patches
from pipeline.imagery.opener import ImageOpener, open_image
from pipeline.storage.access import Access
from pipeline.storage.local_tree import dead_link
from pipeline.storage.range_file import RangeFile

T = TypeVar("T")

RASTER_ERRORS = (RasterioError, CRSError, CPLE_BaseError, OSError)
"""The errors that rasterio raises for a file that is at fault."""

# The words of GDAL, which also has a class for it, and of libtiff, which has none.
_NO_MEMORY = re.compile(
    r"out of memory|(can ?not|failed to|unable to|could not) allocate|no space for ", re.IGNORECASE
)
_LEADING_PATH = re.compile(r"^'[^']*' ")


def read_dataset(
    url: str,
    sidecars: Sequence[str],
    access: Access,
    read: Callable[[Any, list[str]], T],
    mended: bool = False,
    only_sidecars: bool = False,
) -> T:
    """The result of `read`, called with the open rasterio dataset and the list that receives GDAL's
    warnings.

    mended: whether the harmless faults of a JPEG header are mended; only_sidecars: whether GDAL
    sees no file beside it but `sidecars`. Both go through an opener on local disk, too, and no
    opener serves other files.

    Raises what `read` raises, and one of RASTER_ERRORS if the file is at fault, which is certain
    only once its bytes have arrived whole. Raises MemoryError if GDAL had no memory, TransientError
    if the bytes did not arrive and may later, UnfinishedError if the store refuses us and not just
    this file.
    """
    if "://" not in url and not mended and not only_sidecars:
        try:
            return _open_and_read(url, read)
        except RASTER_ERRORS as error:
            # GDAL does not distinguish a bad file from a bad disk. Python does: read it again.
            _check_memory(error)
    opener = ImageOpener(url, sidecars, access, jpeg_patches if mended else None)
    try:
        result = _open_and_read(opener.path, read, opener=opener)
    except (*RASTER_ERRORS, InputError) as error:
        _check_delivery(opener.error)  # first: without bytes, GDAL may complain of anything
        _check_memory(error)
        raise error
    _check_delivery(opener.error)
    return result


def read_bytes(url: str, access: Access, read: Callable[[RangeFile], T]) -> T:
    """The result of `read`, called with the open file, for whoever looks at more than GDAL tells.

    Raises what `read_dataset` raises if the bytes do not arrive.
    """
    try:
        with open_image(url, access) as file:
            return read(file)
    except UsageError as error:
        _check_delivery(error)
        raise


def root_cause(error: BaseException, url: str) -> str:
    """The reason of an error, in one line: GDAL's own words if rasterio's error points to them."""
    if "://" not in url and (why := dead_link(url)):
        return why
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isfile(url) and os.path.getsize(url) == 0:
        return "the file is empty (0 bytes)"
    while error.__cause__ is not None:
        error = error.__cause__
    text = one_line(error, "").rstrip(".")
    text = _LEADING_PATH.sub("", text).removeprefix(f"'{url}' ").removeprefix(f"{url}: ")
    return text or type(error).__name__


def _open_and_read(path: str, read: Callable[[Any, list[str]], T], **open_options: Any) -> T:
    with gdal_env() as warnings, rasterio.open(path, **open_options) as src:
        if src.driver == "VRT" and not path.lower().endswith(".vrt"):
            # Text that names other files: welcome only if its name says so.
            raise RasterioIOError("is a virtual raster under another name; call it .vrt")
        result = read(src, warnings)
        if reason := damage(src, warnings):
            raise RasterioIOError(reason)
    return result


def _check_memory(error: BaseException) -> None:
    """Raise MemoryError if that is what GDAL's error or one of its causes says."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, CPLE_OutOfMemoryError) or _NO_MEMORY.search(str(cause)):
            raise MemoryError(one_line(cause, "")) from error
        cause = cause.__cause__


def _check_delivery(error: Exception | None) -> None:
    """Raise what went wrong while the file's bytes were fetched, if anything did."""
    if isinstance(error, DeniedError):  # this file's fault alone, as if it did not exist
        cause = error.__cause__
        is_builtin = isinstance(cause, OSError) and type(cause).__module__ == "builtins"
        kind: type[OSError] = type(cause) if is_builtin else PermissionError  # type: ignore[assignment]
        raise kind(str(error))
    if isinstance(error, UsageError):
        raise UnfinishedError(str(error)) from error
    if error is not None:
        raise error

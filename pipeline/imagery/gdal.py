"""Opens image files: GDAL as this pipeline sets it, and whose fault it is when it fails.

Knows no scene: what is looked at in an opened file is the caller's business.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import rasterio
from rasterio._err import CPLE_BaseError, CPLE_OutOfMemoryError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError, RasterioIOError
from rasterio.session import DummySession

from pipeline.errors import DeniedError, InputError, UnfinishedError, UsageError, one_line
from pipeline.imagery.opener import ImageOpener
from pipeline.storage.access import Access

T = TypeVar("T")

RASTER_ERRORS = (RasterioError, CRSError, CPLE_BaseError, OSError)
"""What rasterio raises for a file that is at fault."""

GDAL_CACHE_MB = 128
"""Decoded tiles that GDAL may keep per process: a row of 512-px tiles of a scene 20,000 px wide
in three bands of two bytes is 61 MB. (GDAL's default is 5 % of the machine, in every process.)"""

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": GDAL_CACHE_MB,
    # The flow runs one process per core; two threads per read gave nothing on two cores.
    "GDAL_NUM_THREADS": 1,
    # No listing of the folder (100,000 files) at each open; side-cars are still asked for by name,
    # which EMPTY_DIR would not do.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    # Damaged JPEG files would pass as grey pixels with a warning.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
    # GDAL 3.10's fast path for whole PNG images returns uninitialised rows for a truncated file.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
}

# libtiff turns the same damage inside a TIFF into a warning, whatever the option above says, and
# takes every tile for a missing one where the index of tiles has not the right length.
_DAMAGE = re.compile(r"corrupt jpeg|premature end|incorrect count for", re.IGNORECASE)
# Of GDAL, which has a class of its own for it, and of libtiff, which has none.
_NO_MEMORY = re.compile(
    r"out of memory|(can ?not|failed to|unable to|could not) allocate|no space for ", re.IGNORECASE
)
_GDALS_PATH = re.compile(r"^'[^']*' ")
_THREAD = threading.local()


class _Collect(logging.Filter):
    """Keeps what GDAL reports within `gdal_env` from the log, and collects it per thread."""

    def filter(self, record: logging.LogRecord) -> bool:
        notes: list[str] | None = getattr(_THREAD, "notes", None)
        if notes is None or record.levelno < logging.WARNING:
            return True
        notes.append(record.getMessage())
        return False


for _name in ("rasterio._env", "rasterio._err", "rasterio._vsiopener"):
    logging.getLogger(_name).addFilter(_Collect())


# Images without CRS and transform are welcome here. For the whole process: warnings.catch_warnings
# is not safe in threads, and headers are read in several.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@contextmanager
def gdal_env() -> Iterator[list[str]]:
    """GDAL as this pipeline sets it. Yields the list that GDAL's warnings go to."""
    outer: list[str] | None = getattr(_THREAD, "notes", None)
    notes: list[str] = []
    _THREAD.notes = notes
    try:
        # A session of its own: where AWS_* variables are set rasterio would make one of boto3's for
        # each file (8 ms of CPU, measured), and GDAL itself never asks a store.
        with rasterio.Env(session=DummySession(), **GDAL_OPTIONS):
            yield notes
    finally:
        _THREAD.notes = outer


def read_dataset(
    url: str, sidecars: Sequence[str], access: Access, look: Callable[[Any, list[str]], T]
) -> T:
    """What `look` makes of the opened rasterio dataset and the list that GDAL's warnings go to.

    Raises what `look` raises, and one of RASTER_ERRORS where the file is at fault: only then is it
    certain that its bytes came whole. MemoryError: GDAL had none. TransientError: the bytes did not
    come, and may later; UnfinishedError: the store refuses us, not this file.
    """
    if "://" not in url:
        try:
            return _look(url, look)
        except RASTER_ERRORS as error:
            _check_memory(error)  # else: GDAL does not tell a bad file from a bad disk, Python does
    files = ImageOpener(url, sidecars, access)
    try:
        result = _look(files.path, look, opener=files)
    except (*RASTER_ERRORS, InputError) as error:
        _check(files.trouble)  # first: GDAL, given nothing, may complain of anything
        _check_memory(error)
        raise error
    _check(files.trouble)
    return result


def _look(path: str, look: Callable[[Any, list[str]], T], **how: Any) -> T:
    with gdal_env() as notes:
        with rasterio.open(path, **how) as src:
            if src.driver == "VRT" and not path.lower().endswith(".vrt"):
                # Text that names other files: welcome where somebody has called it that.
                raise RasterioIOError("is a virtual raster under another name; call it .vrt")
            result = look(src, notes)
        for note in notes:
            if _DAMAGE.search(note):
                raise RasterioIOError(one_line(note.removeprefix("CPLE_AppDefined:"), ""))
    return result


def _check_memory(error: BaseException) -> None:
    """Raises MemoryError where that is what GDAL's error says."""
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, CPLE_OutOfMemoryError) or _NO_MEMORY.search(str(one)):
            raise MemoryError(one_line(one, "")) from error
        one = one.__cause__


def _check(trouble: Exception | None) -> None:
    """Raises what went wrong on the way, if something did."""
    if isinstance(trouble, DeniedError):  # this file's own matter, as if it were not there
        cause = trouble.__cause__
        plain = isinstance(cause, OSError) and type(cause).__module__ == "builtins"
        kind: type[OSError] = type(cause) if plain else PermissionError  # type: ignore[assignment]
        raise kind(str(trouble))
    if isinstance(trouble, UsageError):
        raise UnfinishedError(str(trouble)) from trouble
    if trouble is not None:
        raise trouble


def cause(error: BaseException, url: str) -> str:
    """What was wrong, in one line: GDAL's own words where rasterio points to them."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if os.path.isfile(url) and os.path.getsize(url) == 0:
        return "the file is empty (0 bytes)"
    while error.__cause__ is not None:
        error = error.__cause__
    text = one_line(error, "").rstrip(".")
    text = _GDALS_PATH.sub("", text).removeprefix(f"'{url}' ").removeprefix(f"{url}: ")
    return text or type(error).__name__

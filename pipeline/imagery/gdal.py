"""GDAL as this pipeline sets it: its options, its environment, and the warnings that it logs.

Knows no file and no scene.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rasterio
from rasterio.env import GDALDataFinder, PROJDataFinder, set_proj_data_search_path, setenv
from rasterio.errors import NotGeoreferencedWarning
from rasterio.session import DummySession

from pipeline.processes.variables import DATA, remove_variables
from pipeline.settings import GDAL_CACHE_BYTES

GDAL_OPTIONS: dict[str, Any] = {
    "GDAL_CACHEMAX": GDAL_CACHE_BYTES >> 20,  # in MB
    # The flow runs one process per core; two threads per read gained nothing on two cores.
    "GDAL_NUM_THREADS": 1,
    # No listing of the folder (100,000 files) at each open; side-cars are still asked for by name,
    # which EMPTY_DIR would not do.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    # Damaged JPEG files would pass as gray pixels with a warning.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
    # GDAL 3.10's fast path for whole PNG images returns uninitialized rows for a truncated file.
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
    # GDAL's defaults, for a process in which somebody else has chosen otherwise.
    "GDAL_JPEG_TO_RGB": "YES",
    "GDAL_PAM_ENABLED": "YES",
    "GTIFF_HONOUR_NEGATIVE_SCALEY": "NO",
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    "GTIFF_POINT_GEO_IGNORE": "NO",
    "JPEG_READ_MASK": "YES",
}

_GDAL_DATA: str | None = GDALDataFinder().search_wheel()
_PROJ_DATA: str | None = PROJDataFinder().search_wheel()
"""The folders of rasterio's own data, next to its code; None in a build that has none: then it
looks where its makers have it look, variables included."""

if _GDAL_DATA and _PROJ_DATA:
    # rasterio would prefer these folders, and load what it finds as a driver.
    remove_variables(DATA)
    os.environ["GDAL_DRIVER_PATH"] = "disable"

_THREAD = threading.local()


class _CollectWarnings(logging.Filter):
    """Keeps what GDAL reports within `gdal_env` out of the log, and collects it per thread."""

    def filter(self, record: logging.LogRecord) -> bool:
        messages: list[str] | None = getattr(_THREAD, "warnings", None)
        if messages is None or record.levelno < logging.WARNING:
            return True
        messages.append(record.getMessage())
        return False


for _name in ("rasterio._env", "rasterio._err", "rasterio._vsiopener"):
    logging.getLogger(_name).addFilter(_CollectWarnings())


# A message of GDAL that is not UTF-8, such as one that quotes a damaged file, cannot be logged by
# rasterio: Python would print the error by both of these hooks, and the message would be lost.
_report, _report_unraisable = sys.excepthook, sys.unraisablehook


def _except_undecodable(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if getattr(_THREAD, "warnings", None) is None or not isinstance(error, UnicodeDecodeError):
        _report(kind, error, trace)


def _collect_undecodable(unraisable: Any) -> None:
    messages: list[str] | None = getattr(_THREAD, "warnings", None)
    error = unraisable.exc_value
    if messages is None or not isinstance(error, UnicodeDecodeError):
        _report_unraisable(unraisable)
    else:
        messages.append(error.object.decode("utf-8", "backslashreplace"))


sys.excepthook, sys.unraisablehook = _except_undecodable, _collect_undecodable


# Images without CRS and transform are welcome here. For the whole process: warnings.catch_warnings
# is not safe in threads, and headers are read in several.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@contextmanager
def gdal_env() -> Iterator[list[str]]:
    """GDAL as this pipeline sets it. Yields the list that receives this thread's GDAL warnings."""
    outer: list[str] | None = getattr(_THREAD, "warnings", None)
    messages: list[str] = []
    _THREAD.warnings = messages
    try:
        # An explicit session: if AWS_* variables are set, rasterio would otherwise make one with
        # boto3 for each file (8 ms of CPU, measured), and GDAL itself never contacts a store.
        with rasterio.Env(session=DummySession(), **GDAL_OPTIONS):
            # Here, because entering an Env takes them from the variables, which a script that calls
            # Swath may have set by now; inside an Env of its own they are not taken at all.
            if _GDAL_DATA and _PROJ_DATA:
                setenv(GDAL_DATA=_GDAL_DATA)
                set_proj_data_search_path(_PROJ_DATA)
            yield messages
    finally:
        _THREAD.warnings = outer

"""A file that an INPUT names, before its header is read. Knows neither stores nor rasters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.doubt import Doubt
from pipeline.errors import InputError, UsageError
from pipeline.scene import RASTER


@dataclass(frozen=True)
class InputFile:
    """A file that an INPUT names, as its store lists it."""

    scene_id: str
    """The path relative to the INPUT."""
    url: str
    """An absolute path, or a URL that fsspec knows."""
    version: str
    """The identity of the bytes: the ETag, or size and modification time, of the file and of its
    side-cars; of an `.aux.xml`, a hash of what it decides. Another version is another scene."""
    sidecars: tuple[str, ...] = ()
    """Names of files in the same folder that add to it: a mask, a georeference."""
    size_bytes: int | None = None
    """The size of the file without its side-cars; None: its server does not say."""
    doubts: tuple[Doubt, ...] = ()
    """What is doubtful about its side-cars."""
    source: str = RASTER
    """The source that describes and reads it: a name in `pipeline.imagery.source.SOURCES`."""


def escape_non_utf8(name: str) -> str:
    """The name with every byte that is not UTF-8 written as \\xNN, for tables and records."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def check_encoding(files: Iterable[InputFile]) -> None:
    """Raises UsageError if this Python reads names in another encoding than UTF-8, and the name of
    a file would suffer."""
    encoding = sys.getfilesystemencoding()
    for file in files:
        if encoding != "utf-8" and not file.url.isascii():
            raise UsageError(
                f"{escape_non_utf8(file.url)}: Python reads names of files as {encoding} here, by"
                " the locale or PYTHONUTF8: set PYTHONUTF8=1"
            )


def header_error(url: str, reason: str) -> InputError:
    """The error of a file whose header says that it cannot be processed."""
    return InputError(f"{url}: {reason}", url=url, stage="describe")

"""Input files as GDAL asks for them, range by range, from any file system that fsspec knows.

GDAL's own network code keeps quiet about what it could not fetch: a mask that was answered with a
503 five times is a mask that does not exist. Here every failure is seen, waited out if it may pass,
and told. Knows file names and bytes; knows no raster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from rasterio.abc import FileContainer

from pipeline.storage.access import Access
from pipeline.storage.range_file import RangeFile, StoredFile

T = TypeVar("T")


class ImageOpener(FileContainer):
    """A file and its side-cars for `rasterio.open(path, opener=...)`; nothing else exists in it."""

    def __init__(self, url: str, sidecars: Sequence[str], access: Access) -> None:
        """sidecars: names of files in the same folder, which begin as the file's own does."""
        self.trouble: Exception | None = None
        """The first thing that went wrong on the way; whoever reads must look at it."""
        fs, path = access.filesystem(url)
        name = path.rpartition("/")[2]
        stem, dot, suffix = name.rpartition(".")
        # A name of our own: any letter may stand in a key, and some mean something to GDAL.
        self.path = f"image{dot}{suffix}" if stem else "image"
        self._files = {self.path: StoredFile(fs, path, url, access.patience_s)}
        for sidecar in sidecars:
            own, base = (name, self.path) if sidecar.startswith(name) else (stem, "image")
            self._files[f"{base}{sidecar[len(own) :]}"] = StoredFile(
                fs, _beside(path, sidecar), _beside(url, sidecar), access.patience_s
            )

    def open(self, path: str, mode: str = "rb", **_: Any) -> RangeFile:
        if path not in self._files or "r" not in mode:
            raise FileNotFoundError(path)
        return RangeFile(partial(self._fetched, self._files[path]), self.size(path))

    def isfile(self, path: str) -> bool:
        return path in self._files

    def isdir(self, path: str) -> bool:
        del path
        return False

    def ls(self, path: str) -> list[str]:
        del path
        return sorted(self._files)

    def rm(self, path: str) -> None:
        raise PermissionError(path)

    def mtime(self, path: str) -> int:
        del path
        return 0

    def size(self, path: str) -> int:
        return self._had(self._files[path].size, 0) if path in self._files else 0

    def _fetched(self, file: StoredFile, start: int, end: int) -> bytes:
        return self._had(partial(file.fetch, start, end), b"")

    def _had(self, get: Callable[[], T], instead: T) -> T:
        """`instead` from the first trouble on."""
        if self.trouble is not None:
            return instead
        try:
            return get()
        except Exception as error:  # noqa: BLE001  GDAL would lose it; `trouble` is looked at
            self.trouble = error
            return instead


def _beside(path: str, name: str) -> str:
    """Of a path or a URL, the one with this name in the same folder."""
    return f"{path.rpartition('/')[0]}/{name}"


def read_beside(url: str, name: str, access: Access) -> bytes:
    """The file of this name in the folder of `url`. Raises FileNotFoundError, and what
    `storage_errors` makes of other errors."""
    fs, path = access.filesystem(url)
    with StoredFile(fs, _beside(path, name), _beside(url, name), access.patience_s).open() as file:
        return file.read()

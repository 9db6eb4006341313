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

from pipeline.access import Access
from pipeline.errors import TransientError
from pipeline.guard import rearm
from pipeline.rangefile import RangeFile
from pipeline.verdict import explained, patiently

T = TypeVar("T")


class Ranges(FileContainer):
    """A file and its side-cars for `rasterio.open(path, opener=...)`; nothing else exists in it."""

    def __init__(self, url: str, sidecars: Sequence[str], access: Access) -> None:
        """sidecars: names of files in the same folder, which begin as the file's own does."""
        self.url = url
        self.trouble: Exception | None = None
        """The first thing that went wrong on the way; whoever reads must look at it."""
        self._fs, path = access.filesystem(url)
        self._patience_s = access.patience_s
        folder, _, name = path.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        # A name of our own: any letter may stand in a key, and some mean something to GDAL.
        self.path = f"image{dot}{suffix}" if stem else "image"
        self._names = {self.path: path}
        for sidecar in sidecars:
            own, base = (name, self.path) if sidecar.startswith(name) else (stem, "image")
            self._names[f"{base}{sidecar[len(own) :]}"] = f"{folder}/{sidecar}"
        self._sizes: dict[str, int] = {}

    def open(self, path: str, mode: str = "rb", **_: Any) -> RangeFile:
        if path not in self._names or "r" not in mode:
            raise FileNotFoundError(path)
        return RangeFile(partial(self.fetch, path), self.size(path))

    def isfile(self, path: str) -> bool:
        return path in self._names

    def isdir(self, path: str) -> bool:
        del path
        return False

    def ls(self, path: str) -> list[str]:
        del path
        return sorted(self._names)

    def rm(self, path: str) -> None:
        raise PermissionError(path)

    def mtime(self, path: str) -> int:
        del path
        return 0

    def size(self, path: str) -> int:
        if path not in self._names:
            return 0
        if path not in self._sizes:
            self._sizes[path] = self._fetched(self._size_of, self._names[path], -1)
        return max(0, self._sizes[path])

    def _size_of(self, key: str) -> int:
        try:
            return int(self._fs.size(key))
        except PermissionError:
            self._fs.cat_file(key, start=0, end=1)  # unlike HEAD's, this refusal says whose fault
            raise

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """The bytes [start, end), or the whole file where its server knows no ranges; empty after
        trouble."""

        def range_of(key: str) -> bytes:
            data = bytes(self._fs.cat_file(key, start=start, end=end))
            if len(data) not in (end - start, self._sizes[path]):
                raise TransientError(f"{self.url}: got {len(data)} of {end - start} bytes")
            return data

        return self._fetched(range_of, self._names[path], b"")

    def _fetched(self, get: Callable[[str], T], key: str, instead: T) -> T:
        def once() -> T:
            with explained(self.url):
                return get(key)

        rearm()  # as long as bytes come, nothing hangs
        if self.trouble is not None:
            return instead
        try:
            return patiently(once, self._patience_s)
        except Exception as error:  # noqa: BLE001  GDAL would lose it; `trouble` is looked at
            self.trouble = error
            return instead


def read_beside(url: str, name: str, access: Access) -> bytes:
    """The file of this name in the folder of `url`. Raises FileNotFoundError and TransientError."""
    fs, path = access.filesystem(url)

    def once() -> bytes:
        with explained(url):
            return bytes(fs.cat_file(f"{path.rpartition('/')[0]}/{name}"))

    return patiently(once, access.patience_s)

"""An image file and its side-cars as GDAL asks for them, range by range, from any file system that
fsspec knows.

GDAL's own network code is silent about what it could not fetch: a mask whose requests were answered
with a 503 five times is taken for a mask that does not exist. Here every failure is noticed,
retried if it may pass, and reported. Knows file names and bytes; knows no raster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from rasterio.abc import FileContainer

from pipeline.imagery.sidecars import is_erdas_aux, is_world_file
from pipeline.storage.access import Access
from pipeline.storage.range_file import RangeFile, StoredFile

T = TypeVar("T")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

Patches = tuple[tuple[int, bytes], ...]
"""Offsets, and the bytes to put over those of a file."""


class ImageOpener(FileContainer):
    """A file, its mask, `.aux.xml` and `.aux` for `rasterio.open(path, opener=...)`, which sees
    nothing else. World files are for `pipeline.imagery.georeference` to read."""

    def __init__(
        self,
        url: str,
        sidecars: Sequence[str],
        access: Access,
        find_patches: Callable[[RangeFile], Patches] | None = None,
    ) -> None:
        """sidecars: names of files in the same folder that start as the file's own name does;
        find_patches: finds what GDAL gets to see instead of some bytes of the image file."""
        self.error: Exception | None = None
        """The first error while bytes were fetched; whoever reads must check it."""
        self._find_patches = find_patches
        self._patches: Patches | None = None
        fs, path = access.filesystem(url)
        name = path.rpartition("/")[2]
        stem, dot, suffix = name.rpartition(".")
        # An invented name: a key may contain any character, and some mean something to GDAL. But an
        # `.aux` names its image.
        is_named = any(map(is_erdas_aux, sidecars)) and _PLAIN_NAME.fullmatch(name)
        alias = (stem or name) if is_named else "image"
        self.path = f"{alias}{dot}{suffix}" if stem else alias
        self._files = {self.path: StoredFile(fs, path, url, access.patience_s)}
        for sidecar in sidecars:
            if is_world_file(sidecar):
                continue
            start, other = (name, self.path) if sidecar.startswith(name) else (stem, alias)
            self._files[f"{other}{sidecar[len(start) :]}"] = StoredFile(
                fs, beside(path, sidecar), beside(url, sidecar), access.patience_s
            )

    def open(self, path: str, mode: str = "rb", **_: Any) -> RangeFile:
        if path not in self._files or "r" not in mode:
            raise FileNotFoundError(path)
        fetch, size = partial(self._fetch, self._files[path]), self.size(path)
        if self._find_patches and path == self.path:
            if self._patches is None:
                self._patches = self._find_patches(RangeFile(fetch, size))
            fetch = partial(_fetch_patched, fetch, self._patches)
        return RangeFile(fetch, size)

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
        return self._get(self._files[path].size, default=0) if path in self._files else 0

    def _fetch(self, file: StoredFile, start: int, end: int) -> bytes:
        return self._get(partial(file.fetch, start, end), default=b"")

    def _get(self, get: Callable[[], T], default: T) -> T:
        """The result of `get`, or `default` from the first error on."""
        if self.error is not None:
            return default
        try:
            return get()
        except Exception as error:  # noqa: BLE001  GDAL would lose it; `self.error` is checked
            self.error = error
            return default


def open_image(url: str, access: Access) -> RangeFile:
    """The image file, opened. Raises what `StoredFile` raises."""
    return StoredFile(*access.filesystem(url), url, access.patience_s).open()


def read_beside(url: str, name: str, access: Access, max_bytes: int) -> bytes:
    """The contents of the file called `name` in the folder of `url`, at most its first bytes.

    Raises FileNotFoundError, and what `storage_errors` makes of other errors.
    """
    fs, path = access.filesystem(url)
    with StoredFile(fs, beside(path, name), beside(url, name), access.patience_s).open() as file:
        return file.read(max_bytes)


def _fetch_patched(
    fetch: Callable[[int, int], bytes], patches: Patches, start: int, end: int
) -> bytes:
    """The bytes that `fetch` returns, [start, end) or the whole file, with the patches."""
    data = bytearray(fetch(start, end))
    origin = start if len(data) <= end - start else 0
    for at, patch in patches:
        for offset, value in enumerate(patch, at - origin):
            if 0 <= offset < len(data):
                data[offset] = value
    return bytes(data)


def beside(path: str, name: str) -> str:
    """The path or URL of the file called `name` in the folder of `path`."""
    return f"{path.rpartition('/')[0]}/{name}"

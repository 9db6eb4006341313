"""A file in a store, read in ranges: transient failures are retried, recent blocks are cached.

Knows neither who reads it nor what for.
"""

from __future__ import annotations

import errno
import io
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import TransientError
from pipeline.storage.access import FileSystem
from pipeline.storage.retry import call_store

T = TypeVar("T")

BLOCK_BYTES = 1 << 18
MAX_READ_AHEAD = 16
"""Blocks fetched beyond the requested ones while a file is read from front to back: 4 MB."""
CACHED_BLOCKS = 64
"""16 MB per open file: a row of storage tiles is often read a tile at a time."""


class StoredFile:
    """A file in a store. Its methods raise what `call_store` raises."""

    def __init__(self, fs: FileSystem, path: str, url: str, patience_s: float) -> None:
        """path: the path on `fs`; url: the name in messages."""
        self._fs, self._path, self._url = fs, path, url
        self._patience_s = patience_s
        self._size: int | None = None

    def open(self) -> RangeFile:
        """The file, opened for reading at any position."""
        return RangeFile(self.fetch, self.size())

    def size(self) -> int:
        """The size in bytes, requested once."""
        if self._size is None:
            self._size = self._try(self._ask_size)
        return self._size

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes [start, end), or the whole file if its server does not support ranges."""
        size = self.size()

        def attempt() -> bytes:
            data = bytes(self._fs.cat_file(self._path, start=start, end=end))
            if len(data) not in (end - start, size):
                raise TransientError(f"{self._url}: got {len(data)} of {end - start} bytes")
            return data

        return self._try(attempt)

    def _ask_size(self) -> int:
        try:
            size = self._fs.size(self._path)
        except PermissionError:
            self._fs.cat_file(self._path, start=0, end=1)  # unlike HEAD's, this refusal says why
            raise
        if size is None:
            raise OSError(
                errno.ESPIPE,
                "its server does not say how long it is (no Content-Length), so it cannot be read"
                " in ranges; download it and name the copy",
            )
        return int(size)

    def _try(self, call: Callable[[], T]) -> T:
        return call_store(self._url, call, self._patience_s)


class RangeFile(io.RawIOBase):
    """A read-only file of `size` bytes; `fetch(start, end)` returns those bytes, or all of them.

    If `fetch` returns fewer, a read ends before the first incomplete block, and the next read
    requests that block again.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._fetch, self._size = fetch, size
        self._at = 0
        self._cached: OrderedDict[int, bytes] = OrderedDict()
        self._fetched_to = 0
        self._ahead = 0
        self._whole: bytes | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the start of the file")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        data = self._between(self._at, end) if end > self._at else b""
        self._at += len(data)
        return data

    def _between(self, start: int, end: int) -> bytes:
        if self._whole is None:
            self._fill(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1)
        if self._whole is not None:
            return self._whole[start:end]
        first = start // BLOCK_BYTES
        blocks = range(first, (end - 1) // BLOCK_BYTES + 1)
        # Only up to a gap: bytes after it would be in the wrong place.
        whole = itertools.takewhile(self._cached.__contains__, blocks)
        data = b"".join(self._cached[block] for block in whole)
        while len(self._cached) > max(CACHED_BLOCKS, len(blocks)):
            self._cached.popitem(last=False)
        return data[start - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def _fill(self, first: int, end: int) -> None:
        """Fetch the missing ones of the blocks [first, end) in one request."""
        missing = [block for block in range(first, end) if block not in self._cached]
        for block in range(first, end):
            if block in self._cached:
                self._cached.move_to_end(block)
        if not missing:
            return
        self._ahead = (
            min(2 * self._ahead + 1, MAX_READ_AHEAD) if missing[0] == self._fetched_to else 0
        )
        start, self._fetched_to = missing[0], missing[-1] + 1 + self._ahead
        offset, stop = start * BLOCK_BYTES, min(self._fetched_to * BLOCK_BYTES, self._size)
        data = self._fetch(offset, stop)
        if len(data) == self._size and stop - offset < self._size:
            self._whole = data
            return
        for block in range(start, -(-stop // BLOCK_BYTES)):
            at = block * BLOCK_BYTES - offset
            if len(data) < min(at + BLOCK_BYTES, stop - offset):
                return  # an incomplete block is fetched again
            self._cached[block] = data[at : at + BLOCK_BYTES]

"""The interface of a store: a folder, local or remote, whose files appear whole or not at all.

Knows nothing of what is in a file, and nothing of rasters, which GDAL reads on its own.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import BinaryIO

from pipeline.storage.access import FileSystem
from pipeline.storage.lock_holder import LockHolder

THREADS = 16
"""Threads that read small files at the same time: they wait for the disk or the network, not the
CPU."""


class Store(ABC):
    """A folder. Paths are relative to it, with forward slashes."""

    scratch: str | None = None
    """A local folder for temporary files; None: the system's (TMPDIR)."""

    def __init__(self, root: str) -> None:
        self.root = root
        """The folder as the user named it; on local disk its absolute path."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """The file, opened for reading at any position. Raises FileNotFoundError."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise UsageError if the folder is evidently not writable. Writes nothing, so an object
        store always passes."""

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Names of the complete files and the folders in a folder, sorted; empty if there is no
        such folder."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Create or replace the file, whole or not at all."""

    @abstractmethod
    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file of any size, opened for writing; it appears under its name if the block ends
        without an error."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write the file only if it does not exist; returns whether it did. Atomic.

        If the file exists with these very bytes, the result may be True or False: in an object
        store the response to our own request may be lost, and its retry finds what the first
        attempt wrote. If only one writer may win, make the bytes unique to the writer.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete the file if it exists."""

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Delete the files of a folder, then the folder, if it exists."""

    @abstractmethod
    def sweep(self, path: str = "") -> None:
        """Delete what writers of the file, by default of any file, left behind when they were
        killed. No writer may be active."""

    @abstractmethod
    def hold(self, name: str, patient: bool = False) -> AbstractContextManager[None]:
        """Hold a name in the folder, as a lock that one process at a time can have; the lock is a
        file of that name.

        A courtesy: correctness rests on idempotent units and create-only commits. Raises
        UsageError if a live process holds the name, or waits for that process if `patient`.
        """

    @abstractmethod
    def remove_dead_lock(self, name: str) -> None:
        """Remove the lock that a dead holder left behind. Raises UsageError if the holder lives."""

    @abstractmethod
    def holder(self, name: str) -> LockHolder | None:
        """The holder of a name according to its last sign of life; None: no live process. Does not
        wait or write."""

    @abstractmethod
    def fsspec(self) -> tuple[FileSystem, str]:
        """The folder for other libraries: a file system and the path on it."""

    def read(self, path: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        with self.open(path) as file:
            return file.read()

    def tail(self, path: str, max_bytes: int) -> bytes:
        """The last bytes of the file: `max_bytes`, or all if it is shorter."""
        with self.open(path) as file:
            file.seek(max(0, file.seek(0, io.SEEK_END) - max_bytes))
            return file.read()

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes]:
        """The contents of the files, in this order, read by threads, at most THREADS files
        ahead."""
        ahead: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(THREADS) as pool:
            for path in paths:
                ahead.append(pool.submit(self.read, path))
                if len(ahead) > THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

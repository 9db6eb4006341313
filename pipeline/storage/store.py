"""A folder whose files appear whole or not at all, wherever it lies.

Knows nothing of what is in a file, and nothing of rasters, which GDAL reads by itself.
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
"""That read small files at once: they wait for the disk or the network, not for the CPU."""


class Store(ABC):
    """Paths are relative to the folder, with forward slashes."""

    scratch: str | None = None
    """A folder on disk for what need not last; None: the one for temporary files (TMPDIR)."""

    def __init__(self, root: str) -> None:
        self.root = root
        """The folder as it was named; on local disk its absolute path."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """For reading at any position."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raises UsageError where nothing can be written, as far as can be seen without writing: of
        an object store that is nothing."""

    @abstractmethod
    def exists(self, path: str) -> bool: ...

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Names of the complete files and of the folders in a folder, sorted; empty where there
        is no folder."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Replaces the file, whole or not at all."""

    @abstractmethod
    def writing(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file of any size that appears under its name when the block ends well."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Writes the file only if there is none; False if there is. Atomic.

        Where there is one with these very bytes, True or False: in an object store the answer to
        our own request may be lost, and its repetition finds what it has written. So bytes that
        shall have one winner must name their writer.
        """

    @abstractmethod
    def delete(self, path: str) -> None:
        """Deletes the file; nothing if there is none."""

    @abstractmethod
    def delete_folder(self, folder: str) -> None:
        """Deletes the files of a folder, then the folder; nothing if there is none."""

    @abstractmethod
    def sweep(self, path: str = "") -> None:
        """Deletes what writers of the file, or of any, left behind when they were killed. None of
        them may be active."""

    @abstractmethod
    def hold(self, name: str, patient: bool = False) -> AbstractContextManager[None]:
        """Holds a name in the folder, whose file is there meanwhile, for one process at a time.

        A courtesy: correctness rests on idempotent units and create-only commits. Raises
        UsageError where a live process holds it, or waits for that one if `patient`.
        """

    @abstractmethod
    def remove_dead_lock(self, name: str) -> None:
        """Takes away what a dead holder has left of a name. Raises UsageError where it lives."""

    @abstractmethod
    def holder(self, name: str) -> LockHolder | None:
        """Who holds a name, as far as can be seen at once; None: nobody alive. Writes nothing."""

    @abstractmethod
    def fsspec(self) -> tuple[FileSystem, str]:
        """The folder as other libraries take it: a file system and the path on it."""

    def read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read()

    def tail(self, path: str, most: int) -> bytes:
        """The last bytes of the file, `most` or all there are."""
        with self.open(path) as file:
            file.seek(max(0, file.seek(0, io.SEEK_END) - most))
            return file.read()

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes]:
        """The files' bytes in this order, read by many threads, no more than THREADS ahead."""
        ahead: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(THREADS) as pool:
            for path in paths:
                ahead.append(pool.submit(self.read, path))
                if len(ahead) > THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

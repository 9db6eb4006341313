"""The store on local disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.storage.access import FileSystem
from pipeline.storage.create_only import link_or_claim
from pipeline.storage.file_lock import (
    has_locks,
    hold_file,
    holder_of,
    lock_file,
    means_no_locks,
)
from pipeline.storage.folders import make_folder, not_writable, sync_folder
from pipeline.storage.lease import clear_dead_lease, current_holder, hold_lease
from pipeline.storage.lock_holder import LockHolder
from pipeline.storage.store import Store

_TEMPORARY = ".tmp"


class LocalStore(Store):
    """A folder on local disk. A file is written under a temporary name, synced and renamed; a lock
    is the kernel's (flock), or a lease as in an object store where the file system has none."""

    def __init__(self, root: str, fs: FileSystem) -> None:
        super().__init__(root)
        self._folder = Path(root)
        self.scratch = root
        self._fs = fs

    def fsspec(self) -> tuple[FileSystem, str]:
        return self._fs, self.root

    def open(self, path: str) -> BinaryIO:
        return (self._folder / path).open("rb")

    def check_writable(self) -> None:
        nearest = self._folder
        while not os.path.lexists(nearest):
            nearest = nearest.parent
        if not nearest.is_dir():
            raise not_writable(self.root, f"{nearest} is not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise not_writable(self.root, f"you may not write to {nearest}, or it is read-only")

    def exists(self, path: str) -> bool:
        return (self._folder / path).exists()

    def list(self, folder: str) -> list[str]:
        try:
            names = os.listdir(self._folder / folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not name.endswith(_TEMPORARY))

    def write(self, path: str, data: bytes) -> None:
        with self.writing(path) as file:
            file.write(data)

    @contextmanager
    def writing(self, path: str) -> Iterator[BinaryIO]:
        final = self._folder / path
        temporary = self._temporary(final)
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(final.parent)

    def create(self, path: str, data: bytes) -> bool:
        final = self._folder / path
        temporary = self._temporary(final)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            claim = final.parent / f".{final.name}.claim{_TEMPORARY}"
            if not link_or_claim(temporary, final, claim):
                return False
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(final.parent)
        return True

    def delete(self, path: str) -> None:
        (self._folder / path).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        path = self._folder / folder
        if path.is_dir():
            for file in path.iterdir():
                file.unlink(missing_ok=True)
            with suppress(FileNotFoundError):  # another process does the same
                path.rmdir()

    def sweep(self, path: str = "") -> None:
        folder, _, name = path.rpartition("/")
        search = (self._folder / folder).glob if path else self._folder.rglob
        for file in search(f".{name}*{_TEMPORARY}"):
            file.unlink(missing_ok=True)

    def age_s(self, path: str) -> float:
        """Seconds since a file was written, if this machine's clock agrees with the disk's."""
        return time.time() - (self._folder / path).stat().st_mtime

    @contextmanager
    def hold(self, name: str, patient: bool = False) -> Iterator[None]:
        made = not self._folder.exists()
        path, probe = self._folder / name, self._temporary(self._folder / name)
        lock = hold_file(path, patient) if has_locks(probe) else hold_lease(self, name, patient)
        try:
            with lock:
                yield
        finally:
            if made:
                with suppress(OSError):  # it is no longer empty
                    self._folder.rmdir()

    def remove_dead_lock(self, name: str) -> None:
        path = self._folder / name
        if not path.exists():
            return
        if not has_locks(self._temporary(path)):
            clear_dead_lease(self, name)
            return
        with lock_file(path, patient=False):
            path.unlink(missing_ok=True)

    def holder(self, name: str) -> LockHolder | None:
        try:
            return holder_of(self._folder / name)
        except OSError as error:
            if means_no_locks(error):
                return current_holder(self, name)
            raise

    def _temporary(self, final: Path) -> Path:
        make_folder(final.parent)
        return final.parent / f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{_TEMPORARY}"

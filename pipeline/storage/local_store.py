"""The store on local disk."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import LOG, UsageError
from pipeline.storage.access import FileSystem
from pipeline.storage.lock_holder import (
    LockHolder,
    decode_lock,
    encode_lock,
    planning_message,
    this_process,
)
from pipeline.storage.store import Store

_TEMPORARY = ".tmp"
_REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR),
        *(errno.ELOOP, errno.ENAMETOOLONG),
    }
)
"""Errors of creating a folder that the same command will meet again."""
_LOOK_S = 0.5
"""Pause between two tries to take a lock that is held."""
_GLANCE_S = 0.2
"""`holder` takes the lock for some microseconds; wait this long before calling the output busy."""


class LocalStore(Store):
    """A folder on local disk. A file is written under a temporary name, synced and renamed; a lock
    is the kernel's (flock)."""

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
            raise _not_writable(self.root, f"{nearest} is not a folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise _not_writable(self.root, f"you may not write to {nearest}, or it is read-only")

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
        _sync_folder(final.parent)

    def create(self, path: str, data: bytes) -> bool:
        final = self._folder / path
        temporary = self._temporary(final)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, final)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(final.parent)
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

    @contextmanager
    def hold(self, name: str, patient: bool = False) -> Iterator[None]:
        path, made = self._folder / name, not self._folder.exists()
        with self._locked(path, patient) as file:
            with suppress(OSError):  # a full disk: nobody will know the holder
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), encode_lock(this_process(), beat=0))
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # before the release, or it might be another's
                if made:
                    with suppress(OSError):  # it is no longer empty
                        self._folder.rmdir()

    def remove_dead_lock(self, name: str) -> None:
        path = self._folder / name
        if path.exists():
            with self._locked(path, patient=False):
                path.unlink(missing_ok=True)

    def holder(self, name: str) -> LockHolder | None:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return _recorded_in(path)
        return None

    @contextmanager
    def _locked(self, path: Path, patient: bool) -> Iterator[BinaryIO]:
        """Lock the file. The kernel releases it with the process, however that ends."""
        told, glance_s = False, time.monotonic() + _GLANCE_S
        while True:
            with self._opened(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() < glance_s:
                        time.sleep(_GLANCE_S / 10)
                        continue
                    if not patient:
                        raise UsageError(_recorded_in(path).busy_message(self.root)) from error
                    if not told:
                        LOG.warning("%s", planning_message(self.root))
                        told = True
                    time.sleep(_LOOK_S)
                    continue
                if _is_at(file, path):
                    yield file
                    return
            # its holder has just deleted it: lock the new file of this name

    def _opened(self, path: Path) -> BinaryIO:
        while True:
            _make_folder(path.parent)
            try:
                return path.open("ab")
            except FileNotFoundError:  # the process that made the folder has just removed it
                continue
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                raise _not_writable(self.root, f"{path}: {error.strerror}") from error

    def _temporary(self, final: Path) -> Path:
        _make_folder(final.parent)
        return final.parent / f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{_TEMPORARY}"


def _not_writable(folder: str, why: str) -> UsageError:
    return UsageError(
        f"{folder}: cannot be created or written to ({why}); name another folder, or fix its"
        " permissions"
    )


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _recorded_in(path: Path) -> LockHolder:
    """The holder that a lock file names; an unknown one if the file is already gone."""
    try:
        return LockHolder.of(decode_lock(path.read_bytes()))
    except FileNotFoundError:
        return LockHolder.of({})


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents. A new folder survives a power cut only once its parent is on
    disk, too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise _not_writable(str(folder), "there is a file with that name") from error
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            raise _not_writable(str(folder), error.strerror or "") from error
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Write a folder to disk: only then do the renames in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

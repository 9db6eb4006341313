"""A store on local disk: temporary name, fsync, rename."""

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
from pipeline.storage.holder import LockHolder
from pipeline.storage.lease import (
    busy_message,
    encode_lock,
    holder_of,
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
"""Of a folder that is to be made: the same command will meet them again."""
_LOOK_S = 0.5
_GLANCE_S = 0.2
"""Who asks for a lock's holder has the lock for some microseconds."""


class LocalStore(Store):
    """Temporary name, fsync, rename."""

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
        there = self._folder
        while not os.path.lexists(there):
            there = there.parent
        if not there.is_dir():
            raise _impossible(self.root, f"{there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise _impossible(self.root, f"you may not write into {there}, or nobody can")

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
            with suppress(FileNotFoundError):  # another one does the same
                path.rmdir()

    def sweep(self, path: str = "") -> None:
        folder, _, name = path.rpartition("/")
        search = (self._folder / folder).glob if path else self._folder.rglob
        for file in search(f".{name}*{_TEMPORARY}"):
            file.unlink(missing_ok=True)

    @contextmanager
    def hold(self, name: str, patient: bool = False) -> Iterator[None]:
        path, made = self._folder / name, not self._folder.exists()
        with self._held(path, patient) as file:
            with suppress(OSError):  # a full disk: nobody will know who holds it
                os.ftruncate(file.fileno(), 0)
                os.write(file.fileno(), encode_lock(this_process(), beat=0))
            try:
                yield
            finally:
                path.unlink(missing_ok=True)  # before it is let go, or it might be another's
                if made:
                    with suppress(OSError):  # something is in it now
                        self._folder.rmdir()

    def free(self, name: str) -> None:
        path = self._folder / name
        if path.exists():
            with self._held(path, patient=False):
                path.unlink(missing_ok=True)

    def holder(self, name: str) -> LockHolder | None:
        path = self._folder / name
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return _named_in(path)
        return None

    @contextmanager
    def _held(self, path: Path, patient: bool) -> Iterator[BinaryIO]:
        """Locks the file. The kernel lets it go with the process, however that ends."""
        said, glance_s = False, time.monotonic() + _GLANCE_S
        while True:
            with self._opened(path) as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    if time.monotonic() < glance_s:
                        time.sleep(_GLANCE_S / 10)
                        continue
                    if not patient:
                        raise UsageError(busy_message(self.root, _named_in(path))) from error
                    if not said:
                        LOG.warning("%s", planning_message(self.root))
                        said = True
                    time.sleep(_LOOK_S)
                    continue
                if _is_at(file, path):
                    yield file
                    return
            # its holder has just deleted it

    def _opened(self, path: Path) -> BinaryIO:
        while True:
            _make_folder(path.parent)
            try:
                return path.open("ab")
            except FileNotFoundError:  # whoever had made the folder has just removed it
                continue
            except OSError as error:
                if error.errno not in _REFUSALS:
                    raise
                raise _impossible(self.root, f"{path}: {error.strerror}") from error

    def _temporary(self, final: Path) -> Path:
        _make_folder(final.parent)
        return final.parent / f".{final.name}.{os.getpid()}-{os.urandom(4).hex()}{_TEMPORARY}"


def _impossible(folder: str, why: str) -> UsageError:
    return UsageError(
        f"{folder}: cannot be made, or not be written into ({why}); name another folder, or have"
        " its rights changed"
    )


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _named_in(path: Path) -> LockHolder:
    """Nobody knows whom, where the lock has just gone."""
    try:
        return holder_of(path.read_bytes())
    except FileNotFoundError:
        return holder_of(b"")


def _make_folder(folder: Path) -> None:
    """A new folder survives a power cut only once the one that it stands in is on disk too."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise _impossible(str(folder), "there is a file of that name") from error
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            raise _impossible(str(folder), error.strerror or "") from error
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """A rename survives a power cut only once its folder is on disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

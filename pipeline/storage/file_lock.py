"""A lock on local disk: a file that the kernel locks (flock), and releases with the process however
that ends.

Lustre and NFS may be mounted without such locks: `has_locks` says so. Others, such as BeeGFS, may
grant them for each machine by itself: then a lock excludes only the processes of one machine.
"""

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
from pipeline.storage.folders import make_folder, refused
from pipeline.storage.lock_holder import (
    LockHolder,
    decode_lock,
    encode_lock,
    planning_message,
    this_process,
)

_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
"""Errors of flock on a file system that has no locks."""
_LOOK_S = 0.5
"""Pause between two tries to take a lock that is held."""
_GLANCE_S = 0.2
"""`holder_of` takes the lock for some microseconds; wait this long before calling the output
busy."""


def has_locks(probe: Path) -> bool:
    """Whether the file system has locks, tried with a file that does not exist. Raises UsageError
    if it cannot be created."""
    with _opened(probe) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not means_no_locks(error):
                raise
            return False
        finally:
            probe.unlink(missing_ok=True)
    return True


@contextmanager
def hold_file(path: Path, patient: bool) -> Iterator[None]:
    """Hold the lock of a file, which names the holder as long as the block lasts. Raises UsageError
    if a live process holds it, or waits for that process if `patient`."""
    with lock_file(path, patient) as file:
        with suppress(OSError):  # a full disk: nobody will know the holder
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), encode_lock(this_process(), beat=0))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # before the release, or it might be another's


def holder_of(path: Path) -> LockHolder | None:
    """The holder of a file's lock; None: no process. Raises OSError without locks: see
    `means_no_locks`."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _recorded_in(path)
    return None


def means_no_locks(error: OSError) -> bool:
    """Whether an error says that the file system has no locks."""
    return error.errno in _NO_LOCKS


@contextmanager
def lock_file(path: Path, patient: bool) -> Iterator[BinaryIO]:
    """Lock the file. Raises as `hold_file`."""
    folder = str(path.parent)
    told, glance_s = False, time.monotonic() + _GLANCE_S
    while True:
        with _opened(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < glance_s:
                    time.sleep(_GLANCE_S / 10)
                    continue
                if not patient:
                    raise UsageError(_recorded_in(path).busy_message(folder)) from error
                if not told:
                    LOG.warning("%s", planning_message(folder))
                    told = True
                time.sleep(_LOOK_S)
                continue
            if _is_at(file, path):
                yield file
                return
        # its holder has just deleted it: lock the new file of this name


def _opened(path: Path) -> BinaryIO:
    while True:
        make_folder(path.parent)
        try:
            return path.open("ab")
        except FileNotFoundError:  # the process that made the folder has just removed it
            continue
        except OSError as error:
            raise refused(str(path.parent), error, path) from error


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

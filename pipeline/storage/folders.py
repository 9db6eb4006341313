"""Folders on local disk: made so that they survive a power cut, or refused with a remedy.

Knows nothing of the files in them.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from pipeline.errors import UsageError

_REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR),
        *(errno.ELOOP, errno.ENAMETOOLONG),
    }
)
"""Errors of creating a file or folder that the same command will meet again."""
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""Errors of file systems that cannot write a folder to disk on request."""


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. A new folder survives a power cut only once its parent is on
    disk, too. Raises UsageError if that is refused."""
    if not folder.is_dir():
        make_folder(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise not_writable(str(folder), "there is a file with that name") from error
        except OSError as error:
            raise refused(str(folder), error) from error
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Write a folder to disk: only then do the renames in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def refused(folder: str, error: OSError, path: Path | None = None) -> Exception:
    """The error to raise for one of writing to a folder: a UsageError for a refusal. path: what
    could not be created, if not the folder itself."""
    if error.errno not in _REFUSALS:
        return error
    what = error.strerror or ""
    return not_writable(folder, f"{path}: {what}" if path else what)


def not_writable(folder: str, why: str) -> UsageError:
    """The error for a folder that cannot be created or written to."""
    return UsageError(
        f"{folder}: cannot be created or written to ({why}); name another folder, or fix its"
        " permissions"
    )

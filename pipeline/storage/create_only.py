"""A finished temporary file gets its name unless another file has it: atomic, by a hard link.

vfat, exFAT, gcsfuse and other file systems have no hard links. There a second file, created
exclusively, lets one writer at a time look and rename. Knows nothing of what is in the files.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK})
"""Errors of a hard link between two files of one folder on a file system that has none."""
_CLAIM_S = 10.0
"""A writer that has not renamed its file after this time is dead: it takes a moment."""
_LOOK_S = 0.02


def link_or_claim(temporary: Path, final: Path, claim: Path) -> bool:
    """Let the temporary file appear as `final`; False if that exists. The temporary file may be
    left behind. claim: a name that all writers of `final` share."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_claimed(temporary, final, claim)
    return True


def _rename_claimed(temporary: Path, final: Path, claim: Path) -> bool:
    _take(claim)
    try:
        if final.exists():
            return False
        temporary.rename(final)
    finally:
        claim.unlink(missing_ok=True)
    return True


def _take(claim: Path) -> None:
    """Create the claim, after waiting for its holder; that of a dead one is removed."""
    seen, since_s = -1, time.monotonic()
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return
        except FileExistsError:
            pass
        try:
            latest = claim.stat().st_mtime_ns
        except FileNotFoundError:
            continue
        if latest != seen:
            seen, since_s = latest, time.monotonic()
        elif time.monotonic() - since_s > _CLAIM_S:
            claim.unlink(missing_ok=True)
        time.sleep(_LOOK_S)

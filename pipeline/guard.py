"""Ends what would hang, and refuses what would take the machine's memory: for one piece of work.

For processes that may die: the runner notices and tries again. Knows nothing of the work.
"""

from __future__ import annotations

import faulthandler
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_active_s: list[float] = []
"""The limit under which this process works, if any."""


@contextmanager
def guarded(limit_s: float, memory_bytes: int | None = None) -> Iterator[None]:
    """Within it, the process ends after `limit_s` without an end of the block or a `rearm`, even
    where C code hangs with Python's lock; and taking `memory_bytes` more than now raises
    MemoryError. Not to be nested."""
    _active_s.append(limit_s)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if memory_bytes is not None:
        limit_memory(memory_bytes)
    try:
        rearm()
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_DATA, before)
        _active_s.clear()


def rearm() -> None:
    """Starts the time again: what is waited for is known, and waits no longer than it may."""
    if _active_s:
        # A C thread of faulthandler's own: it needs no lock of Python's.
        faulthandler.dump_traceback_later(_active_s[0], exit=True)


def limit_memory(memory_bytes: int) -> None:
    """MemoryError for who takes more than this beyond what the process has by now. Linux only."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    # What the kernel counts against RLIMIT_DATA: proc(5).
    (used,) = (line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = int(used.split()[1]) * 1024 + memory_bytes
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

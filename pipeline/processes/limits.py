"""Ends what would hang, and refuses what would take the machine's memory: for one piece of work.

For processes that may die: the runner notices and tries again. Knows nothing of the work.
"""

from __future__ import annotations

import faulthandler
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_active_s: list[float] = []
"""The limit under which this process works, if any."""
_watched = threading.local()
"""tell: whom this thread tells that its time starts again, where another process will end it."""


@contextmanager
def process_limits(limit_s: float, memory_bytes: int | None = None) -> Iterator[None]:
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


@contextmanager
def report_rearms(tell: Callable[[float], None]) -> Iterator[None]:
    """Within it, in this thread, each `rearm` calls `tell` with its seconds: for who works under
    the eyes of a process that will end this one."""
    _watched.tell = tell
    try:
        yield
    finally:
        del _watched.tell


def rearm(at_least_s: float = 0.0) -> None:
    """Starts the time again, with the limit or more: what is waited for is known, and waits no
    longer than this. Nothing where there is no limit."""
    if _active_s:
        # A C thread of faulthandler's own: it needs no lock of Python's.
        faulthandler.dump_traceback_later(max(_active_s[0], at_least_s), exit=True)
    tell = getattr(_watched, "tell", None)
    if tell is not None:
        tell(at_least_s)


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

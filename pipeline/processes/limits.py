"""A time limit and a memory limit for one piece of work in this process.

For processes that may die: the runner notices and retries. Knows nothing of the work.
"""

from __future__ import annotations

import faulthandler
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

_active_s: list[float] = []
"""The time limit that this process works under; empty: none."""
_observed = threading.local()
"""report: what `rearm` calls in this thread, if another process enforces its time limit."""


@contextmanager
def process_limits(limit_s: float, memory_bytes: int | None = None) -> Iterator[None]:
    """While open, the process exits after `limit_s` without a `rearm`, even if C code hangs with
    Python's lock; and allocating `memory_bytes` more than now raises MemoryError. Must not be
    nested."""
    _active_s.append(limit_s)
    try:
        with memory_limit(memory_bytes) if memory_bytes is not None else nullcontext():
            rearm()
            yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        _active_s.clear()


@contextmanager
def memory_limit(memory_bytes: int) -> Iterator[None]:
    """While open, allocating `memory_bytes` more than now raises MemoryError in this process."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(memory_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def report_rearms(report: Callable[[float], None]) -> Iterator[None]:
    """While open, each `rearm` in this thread also calls `report(at_least_s)`, so that a parent
    process that enforces the time limit extends it."""
    _observed.report = report
    try:
        yield
    finally:
        del _observed.report


def rearm(at_least_s: float = 0.0) -> None:
    """Restart the time limit, with at least `at_least_s`: for a wait that is known to end within
    that time. Without a limit, do nothing."""
    if _active_s:
        # A C thread of faulthandler, which does not need Python's lock.
        faulthandler.dump_traceback_later(max(_active_s[0], at_least_s), exit=True)
    report = getattr(_observed, "report", None)
    if report is not None:
        report(at_least_s)


def limit_memory(memory_bytes: int) -> None:
    """From now on, raise MemoryError if this process allocates more than this beyond what it has.
    Linux only; does nothing elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    # What the kernel counts against RLIMIT_DATA: proc(5).
    (used,) = (line for line in status.read_text().splitlines() if line.startswith("VmData:"))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = int(used.split()[1]) * 1024 + memory_bytes
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

"""What hangs is ended, and what gives signs is not."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pipeline.processes.limits import rearm, report_rearms

PRELUDE = """
import ctypes, time
from pipeline.processes.limits import process_limits, rearm
def hang():
    ctypes.PyDLL(None).sleep(3600)  # in C, holding Python's lock
"""


def ran(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("how", ["hang()", "time.sleep(50)", "rearm(); hang()", "rearm(2); hang()"])
def test_what_hangs_ends_its_process(how: str) -> None:
    done = ran(f"with process_limits(1.0): {how}")
    assert done.returncode == 1
    assert "Timeout" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "with process_limits(2.0):\n    for _ in range(30): time.sleep(0.1); rearm()",
        "with process_limits(0.5): rearm(50); time.sleep(1.5)",
        "with process_limits(0.5): pass\nrearm(); time.sleep(1.5)",  # the block has ended
        "with process_limits(0.5): rearm(50); rearm(49)\ntime.sleep(1.5)",
    ],
)
def test_what_gives_signs_or_has_ended_is_let_be(code: str) -> None:
    done = ran(f"{code}\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_a_sign_after_a_long_one_starts_the_limit_again() -> None:
    done = ran("with process_limits(1.0): rearm(50); rearm(); hang()")
    assert done.returncode == 1


def test_more_memory_than_is_allowed_is_refused_and_then_allowed_again() -> None:
    """In a process of its own: what others have freed before may be taken again."""
    done = ran("""
try:
    with process_limits(60, memory_bytes=100_000_000): bytearray(500_000_000)
except MemoryError:
    print(len(bytearray(500_000_000)))
""")
    assert (done.returncode, done.stdout) == (0, "500000000\n"), done.stderr


def test_signs_go_to_the_watcher_of_the_thread() -> None:
    mine: list[float] = []
    others: list[float] = []

    def other() -> None:
        rearm(1)  # nobody watches
        with report_rearms(others.append):
            rearm(2)

    with report_rearms(mine.append):
        rearm()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        rearm(3)
    rearm(4)
    assert (mine, others) == ([0.0, 3], [2])

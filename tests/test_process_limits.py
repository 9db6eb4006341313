"""A process that hangs is killed; one that rearms its limit in time is not."""

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


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    "code", ["hang()", "time.sleep(50)", "rearm(); hang()", "rearm(2); hang()"]
)
def test_a_hang_kills_the_process(code: str) -> None:
    done = run_code(f"with process_limits(1.0): {code}")
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
def test_code_that_rearms_in_time_or_has_left_the_block_is_not_killed(code: str) -> None:
    done = run_code(f"{code}\nprint('done')")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_rearming_after_a_longer_allowance_restores_the_limit() -> None:
    done = run_code("with process_limits(1.0): rearm(50); rearm(); hang()")
    assert done.returncode == 1


def test_the_memory_limit_holds_in_its_block_and_is_lifted_after_it() -> None:
    """Only a new process tells: memory that earlier tests freed could be allocated again."""
    done = run_code("""
try:
    with process_limits(60, memory_bytes=100_000_000): bytearray(500_000_000)
except MemoryError:
    print(len(bytearray(500_000_000)))
""")
    assert (done.returncode, done.stdout) == (0, "500000000\n"), done.stderr


def test_rearms_are_reported_to_the_watcher_of_their_thread() -> None:
    main_rearms: list[float] = []
    thread_rearms: list[float] = []

    def rearm_in_thread() -> None:
        rearm(1)  # no watcher yet
        with report_rearms(thread_rearms.append):
            rearm(2)

    with report_rearms(main_rearms.append):
        rearm()
        thread = threading.Thread(target=rearm_in_thread)
        thread.start()
        thread.join()
        rearm(3)
    rearm(4)
    assert (main_rearms, thread_rearms) == ([0.0, 3], [2])

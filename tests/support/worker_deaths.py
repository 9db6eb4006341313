"""Faults of a worker process: crashes, hangs, lack of memory. Imports little: workers import it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from pipeline.processes.limits import rearm


def misbehave(fault: str) -> str:  # noqa: PLR0912  a list
    """Commit a fault, "kind" or "kind argument"; returns its text in capitals, if it returns."""
    kind, _, argument = fault.partition(" ")
    match kind:
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(0)
        case "sleep":
            time.sleep(3600)
        case "hang":  # in C, holding Python's lock
            hang()
        case "memory":
            bytearray(100_000_000_000)
        case "touch":  # bit by bit
            hoard = []
            while True:
                hoard.append(bytes(10_000_000))
        case "abort":
            ctypes.CDLL(None).abort()
        case "raise":
            raise ValueError(argument)
        case "odd":
            raise Odd(where=argument)
        case "leave":
            raise SystemExit(1)
        case "signs":  # longer than the limit of an item, but with signs of life
            ends = time.monotonic() + float(argument)
            while time.monotonic() < ends:
                rearm()
                time.sleep(0.1)
        case "silence":  # announced
            rearm(10 * float(argument))
            time.sleep(float(argument))
            rearm()
        case "print":
            print("to stdout")
            os.write(2, b"to stderr")
            Grudge()
        case "pid":
            return str(os.getpid())
        case "report":
            Path(argument).write_text(str(os.getpid()))
            time.sleep(3600)
        case "report-hang":
            Path(argument).write_text(str(os.getpid()))
            hang()
    return fault.upper()


def hang() -> None:
    """Sleep in C with Python's lock, which PyDLL keeps. A loop would take a core from others."""
    ctypes.PyDLL(None).sleep(3600)


class Grudge:
    """Raises when it is deleted, where no caller can catch it, as a callback from C may."""

    def __del__(self) -> None:
        raise ValueError("unseen")


class Odd(Exception):
    """An error that can be pickled, but not unpickled."""

    def __init__(self, *, where: str) -> None:
        super().__init__(where)

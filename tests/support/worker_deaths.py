"""What may happen to a worker process. Imports little: the workers import it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

from pipeline.processes.limits import rearm


def misbehave(peril: str) -> str:  # noqa: PLR0912  a list
    """Returns `peril` in capitals, if it returns."""
    kind, _, rest = peril.partition(" ")
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
            raise ValueError(rest)
        case "odd":
            raise Odd(where=rest)
        case "leave":
            raise SystemExit(1)
        case "signs":  # longer than an item may take, but never silent for so long
            ends = time.monotonic() + float(rest)
            while time.monotonic() < ends:
                rearm()
                time.sleep(0.1)
        case "silence":  # that was said before
            rearm(10 * float(rest))
            time.sleep(float(rest))
            rearm()
        case "print":
            print("to stdout")
            os.write(2, b"to stderr")
            Grudge()
        case "pid":
            return str(os.getpid())
        case "report":
            Path(rest).write_text(str(os.getpid()))
            time.sleep(3600)
        case "report-hang":
            Path(rest).write_text(str(os.getpid()))
            hang()
    return peril.upper()


def hang() -> None:
    """PyDLL keeps the lock; a loop in C would take a processor from the other tests."""
    ctypes.PyDLL(None).sleep(3600)


class Grudge:
    """Raises where nobody can catch it, as a callback from C may."""

    def __del__(self) -> None:
        raise ValueError("unseen")


class Odd(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, *, where: str) -> None:
        super().__init__(where)

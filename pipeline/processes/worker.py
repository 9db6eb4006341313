"""The inside of a worker process of the sandbox: takes items, answers with outcomes.

Knows how a process is kept from taking others with it, and nothing of what it computes.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from pipeline.processes.limits import limit_memory, report_rearms

R = TypeVar("R")


@dataclass(frozen=True)
class Returned(Generic[R]):
    value: R


@dataclass(frozen=True)
class Raised:
    error: BaseException
    """As the function raised it, but without its cause, which does not travel."""


@dataclass(frozen=True)
class Unanswered:
    """No outcome yet: the item's time starts again."""

    at_least_s: float


def serve(descriptor: int) -> None:
    """The life of a worker process; never returns."""
    connection = Connection(descriptor)
    _end_with_parent()
    pickled, threads, memory_bytes = connection.recv()
    function = pickle.loads(pickled)  # what cannot be imported is told on stderr
    _quiet()
    # No core files: what crashes here is expected to.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    limit_memory(memory_bytes)
    connection.send(None)
    receiving, sending = threading.Lock(), threading.Lock()

    def send(data: bytes) -> None:
        with sending:
            connection.send_bytes(data)

    def tell(index: int, at_least_s: float) -> None:
        send(pickle.dumps((index, Unanswered(at_least_s))))

    def work() -> None:
        try:
            while True:
                with receiving:
                    index, item = connection.recv()
                with report_rearms(partial(tell, index)):
                    answer = _answer(function, index, item)
                send(answer)
        finally:  # the parent has gone, or memory was short even here
            os._exit(1)

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    threading.Event().wait()


def _answer(function: Callable[[Any], Any], index: int, item: Any) -> bytes:
    """The outcome, pickled."""
    try:
        return pickle.dumps((index, Returned(function(item))))
    except BaseException as error:  # noqa: BLE001  the caller judges
        try:
            answer = pickle.dumps((index, Raised(error)))
            pickle.loads(answer)  # not every exception that can be pickled can be unpickled
            return answer
        except Exception:  # noqa: BLE001
            plain = RuntimeError(f"{type(error).__name__}: {error}")
            return pickle.dumps((index, Raised(plain)))


def _end_with_parent() -> None:
    """Even where the parent is killed, and code in C holds Python's lock. Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _quiet() -> None:
    """What C prints when it crashes goes nowhere; what Python logs still goes to stderr."""
    # rasterio cannot decode the messages of GDAL that quote a damaged file, and nobody can be told.
    sys.unraisablehook = lambda _: None
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

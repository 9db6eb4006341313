"""The worker process of the sandbox: receives items, sends outcomes.

Knows how to keep a dying process from taking others with it, and nothing of what it computes.
"""

from __future__ import annotations

import ctypes
import logging
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

from pipeline.errors import LOG
from pipeline.processes.limits import limit_memory, report_rearms

R = TypeVar("R")


@dataclass(frozen=True)
class Returned(Generic[R]):
    """The function returned a value."""

    value: R


@dataclass(frozen=True)
class Raised:
    """The function raised an error."""

    error: BaseException
    """Without its cause, which cannot be pickled with it."""


@dataclass(frozen=True)
class Rearmed:
    """No outcome yet: the item's time limit starts again."""

    at_least_s: float
    """The new limit, if it is longer than the item's own."""


@dataclass(frozen=True)
class Logged:
    """A warning, to be said by the parent."""

    record: logging.LogRecord


class _Forwarding(logging.Handler):
    """Hands warnings to the parent."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None  # to be pickled
        self._send(pickle.dumps(Logged(record)))


def serve(descriptor: int) -> None:
    """Work on items from the parent's connection; never returns.

    The connection carries: the pickled function, threads and memory_bytes; then None from here once
    all is imported; then (index, item) to here, (index, outcome or Rearmed) back, and Logged.
    """
    connection = Connection(descriptor)
    _end_with_parent()
    pickled, threads, memory_bytes = connection.recv()
    function = pickle.loads(pickled)  # what cannot be imported is reported on stderr
    _silence_c()
    # No core files: crashes are expected here.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    limit_memory(memory_bytes)
    connection.send(None)
    receiving, sending = threading.Lock(), threading.Lock()

    def send(data: bytes) -> None:
        with sending:
            connection.send_bytes(data)

    LOG.addHandler(_Forwarding(send))
    LOG.propagate = False

    def report(index: int, at_least_s: float) -> None:
        send(pickle.dumps((index, Rearmed(at_least_s))))

    def work() -> None:
        try:
            while True:
                with receiving:
                    index, item = connection.recv()
                with report_rearms(partial(report, index)):
                    answer = _answer(function, index, item)
                send(answer)
        finally:  # the parent is gone, or memory was short even here
            os._exit(1)

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    threading.Event().wait()


def _answer(function: Callable[[Any], Any], index: int, item: Any) -> bytes:
    """The index and the outcome, pickled."""
    try:
        return pickle.dumps((index, Returned(function(item))))
    except BaseException as error:  # noqa: BLE001  the caller judges
        return pickle.dumps((index, raised(error)))


def raised(error: BaseException) -> Raised:
    """The error as it can be sent: not every exception can be pickled, nor unpickled after that."""
    try:
        pickle.loads(pickle.dumps(error))
        return Raised(error)
    except Exception:  # noqa: BLE001
        return Raised(RuntimeError(f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """Die with the parent, even if it is killed and C code holds Python's lock here. Linux only."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def _silence_c() -> None:
    """Discard what C code prints when it crashes; Python's logs still go to stderr."""
    # rasterio cannot decode GDAL's messages that quote a damaged file, and cannot tell anybody.
    sys.unraisablehook = lambda _: None
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

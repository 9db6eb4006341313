"""An object in a process of its own: what is called here runs there, one call after the other.

The process may crash, hang or be killed for its memory: then the call that was under way has
`Died`, and so has every later one. Knows nothing of what it computes.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from pipeline.processes.worker import Raised, Rearmed, Returned
from pipeline.processes.worker_process import (
    ADDRESS_SPACE_BYTES,
    EXIT_S,
    Died,
    WorkerProcess,
)

EVERY_S = 1.0
"""Seconds between two calls of `meanwhile`."""


class CompanionDiedError(Exception):
    """The process has ended, or was ended because a call took too long."""

    def __init__(self, died: Died) -> None:
        super().__init__(died.how)
        self.died = died


class Companion:
    """A process that holds an object and calls its methods. Starts at once; close it."""

    def __init__(self, held: object) -> None:
        """held: an object that pickles into some kilobytes; the process imports its class."""
        self._process = WorkerProcess(
            pickle.dumps(partial(_call, held)), threads=1, memory_bytes=ADDRESS_SPACE_BYTES
        )
        self._calls = 0
        self._limit_s = self._due = 0.0
        self._died: Died | None = None
        self._outcome: Returned[Any] | Raised | None = None
        """The outcome of the latest call; None: it is not known yet."""

    def start(self, method: str, *arguments: Any, limit_s: float) -> None:
        """Begin a call, after those that were begun before and whose outcomes nobody asks for any
        more. limit_s: seconds, or seconds between two calls of `limits.rearm`."""
        self._calls += 1
        self._limit_s, self._outcome = limit_s, None
        self._process.send(self._calls, (method, arguments))
        self._rearm(0.0)

    def result(self, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """The result of the call. meanwhile: called about once a second until it is there.

        Raises what the call raised, and CompanionDiedError.
        """
        next_s = time.monotonic() + EVERY_S
        while self._outcome is None:
            self._listen(max(0.0, next_s - time.monotonic()))
            if time.monotonic() >= next_s:
                meanwhile()
                next_s = time.monotonic() + EVERY_S
        if isinstance(self._outcome, Raised):
            raise self._outcome.error
        return self._outcome.value

    @property
    def has_answered(self) -> bool:
        """Whether `result` returns or raises at once. Before any call: whether the process died."""
        with suppress(CompanionDiedError):
            if self._calls and self._outcome is None:
                self._listen(0.0)
        return bool(self._died or self._outcome)

    def close(self) -> None:
        """End the process."""
        self._end(Died("crashed", "its process was closed"))

    def _rearm(self, at_least_s: float) -> None:
        # Its imports come first, which are no part of the call.
        until = time.monotonic() if self._process.ready else self._process.start_due
        self._due = until + max(self._limit_s, at_least_s)

    def _listen(self, wait_s: float) -> None:
        """Wait for a message about the call, but no longer than this. Raises
        CompanionDiedError."""
        if self._died:
            raise CompanionDiedError(self._died)
        wait_s = min(wait_s, self._due - time.monotonic())
        if not self._process.connection.poll(max(0.0, wait_s)):
            if time.monotonic() >= self._due:
                self._end(Died("timeout", f"it took more than {self._limit_s:,.0f} s"))
            return
        try:
            message = self._process.receive()
        except EOFError:
            self._died = Died("crashed", self._process.end(EXIT_S))
            return
        if message is None:  # it has started, or warned of something
            self._rearm(0.0)
            return
        call, outcome = message
        if isinstance(outcome, Rearmed) or call != self._calls:
            self._rearm(outcome.at_least_s if isinstance(outcome, Rearmed) else 0.0)
        else:
            self._outcome = outcome

    def _end(self, died: Died) -> None:
        if self._died is None:
            self._died = died
            self._process.end()


def _call(held: object, call: tuple[str, tuple[Any, ...]]) -> Any:
    method, arguments = call
    return getattr(held, method)(*arguments)

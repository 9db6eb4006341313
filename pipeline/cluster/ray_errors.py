"""Why units got no outcome on Ray: Ray's errors, in words of ours. Ray Data only logs them.

Does not know which units they cost: the next round sees to those.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayActorError, RayTaskError

from pipeline.cluster.passed_error import PassedError
from pipeline.errors import CheckpointError, TransientError, UnfinishedError, UsageError

_SWATH_ERRORS = (UnfinishedError, UsageError, CheckpointError)
_EXECUTOR_LOG = logging.getLogger("ray.data._internal.execution.streaming_executor_state")
_RAISED = re.compile(r"(?:\w+\.)*(\w+(?:Error|Exception|Interrupt): .*)")
"""The last line of a traceback: the name of an error after those of its modules, and its text."""
STALLED_UNITS = 8
"""Units whose store did not answer after which a round is given up: patience ran out for each."""


class LoggedErrors(logging.Filter):
    """The errors of one round, taken from what Ray Data logs while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self._stalls: list[TransientError] = []
        self._fatal: Exception | None = None
        self._loss: BaseException | None = None
        """The first error that is none of ours."""

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Take what Ray Data logs inside the block, which then does not reach the console."""
        _EXECUTOR_LOG.addFilter(self)
        try:
            yield
        finally:
            _EXECUTOR_LOG.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        cause = swath_error_in(error)
        if isinstance(cause, TransientError):
            self._stalls.append(cause)
        elif cause is not None:
            self._fatal = self._fatal or cause
        else:
            self._loss = self._loss or error
        return False

    def add_fatal(self, error: Exception) -> None:
        """Add the error that ended the whole round."""
        self._fatal = swath_error_in(error) or _given_up(error, self.first_reason())

    def first_reason(self) -> str:
        """The first reason why a unit got no outcome, as the end of a sentence; "" if there is
        none."""
        error = self._loss or next(iter(self._stalls), None)
        return f". The first was lost with {root_cause(error)}" if error else ""

    def check(self) -> None:
        """Raise the error that makes it useless to continue, if there is one."""
        if self._fatal is not None:
            raise self._fatal
        if len(self._stalls) >= STALLED_UNITS:
            raise self._stalls[0]


def swath_error_in(error: BaseException | None) -> Exception | None:
    """The error of ours in a chain of Ray's, or None. A RayTaskError passes for the error that it
    wraps, but its text is the whole traceback."""
    while error is not None:
        if isinstance(error, _SWATH_ERRORS) and not isinstance(error, RayTaskError):
            return error
        error = _next_in_chain(error)
    return None


def _next_in_chain(error: BaseException) -> BaseException | None:
    cause = getattr(error, "cause", None)  # Ray's attribute; in our own errors it is a text
    return cause if isinstance(cause, BaseException) else error.__cause__


def root_cause(error: BaseException) -> str:
    """The cause at the end of an error's chain, in a few words."""
    if swath_error := swath_error_in(error):
        return swath_error.cause if isinstance(swath_error, TransientError) else str(swath_error)
    while (deeper := _next_in_chain(error)) is not None:
        error = deeper
    if isinstance(error, PassedError):
        return error.text
    lines = str(error).strip().splitlines() or ["no details"]
    # Ray gives the cause of a dead actor as text, a traceback: its last line says what was raised.
    what = lines[-1 if isinstance(error, RayActorError) else 0].strip()[:300]
    raised = _RAISED.fullmatch(what)
    return raised[1] if raised else f"{type(error).__name__}: {what}"


def _given_up(error: Exception, first_reason: str) -> UnfinishedError:
    # A replica that dies at work costs its units alone, so this one was still loading.
    dead = isinstance(error, RayActorError)
    what = "no replica could be loaded" if dead else "Ray stopped before every unit was done"
    return UnfinishedError(
        f"{what} ({root_cause(error)}){first_reason}; the same command resumes the run"
    )

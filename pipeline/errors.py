"""Errors of the pipeline, and where a command's warnings go. Knows no library.

SwathError                 (segformer.errors) the root
+-- CheckpointError        (segformer.errors)
|   +-- UnavailableError   (segformer.errors) becomes a TransientError where calls are retried
+-- UsageError             the command cannot be carried out as asked; nothing was changed
|   +-- DeniedError        access to one file is refused: to these credentials, or to everybody
|   +-- UnseenError        a node of the cluster does not see a path
+-- InputError             one input cannot be processed; the others can
+-- UnfinishedError        the run stopped before every unit had an outcome; run it again
    +-- TransientError     a store does not answer, or a connection was lost: a retry may help
"""

from __future__ import annotations

import logging

from segformer.errors import CheckpointError, SwathError, UnavailableError

__all__ = [
    "CheckpointError",
    "DeniedError",
    "InputError",
    "SwathError",
    "TransientError",
    "UnavailableError",
    "UnfinishedError",
    "UnseenError",
    "UsageError",
]

LOG = logging.getLogger("swath")
"""Warnings that a user should read while a command runs."""


class UsageError(SwathError):
    """Wrong arguments, a missing path, an output of another job. Exit code 2."""


class DeniedError(UsageError):
    """Access to one file is refused, to these credentials or to everybody; or its path can never be
    read as a file (a folder, a loop of links, a name that is too long). Says nothing about other
    files."""


class UnseenError(UsageError):
    """A local path does not exist on a node of the cluster. Raised only once the output exists."""


class InputError(SwathError):
    """One input cannot be processed: it is quarantined under `stage` with this message."""

    def __init__(self, message: str, *, url: str, stage: str) -> None:
        super().__init__(message)
        self.message = message
        self.url = url
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling, and errors cross processes.
        return (_input_error, (self.message, self.url, self.stage))


class UnfinishedError(SwathError):
    """The run stopped with units left open. Exit code 1."""


class TransientError(UnfinishedError):
    """A transient failure: a store that does not answer, a lost connection. Exit code 1 if it
    outlasts the retries."""

    def __init__(self, cause: str, retry_after_s: float | None = None) -> None:
        """retry_after_s: the seconds that the store asks to wait; None: it does not say."""
        super().__init__(f"{cause}; the same command resumes the run")
        self.cause = cause
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return (TransientError, (self.cause, self.retry_after_s))


def _input_error(message: str, url: str, stage: str) -> InputError:
    return InputError(message, url=url, stage=stage)


def one_line(error: object, fallback: str = "no details") -> str:
    """The text of an error on one line, or `fallback` if it has none."""
    return " ".join(str(error).split()) or fallback

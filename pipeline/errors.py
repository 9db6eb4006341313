"""What can go wrong in the pipeline. Knows no library.

SwathError                 (segformer.errors) the root
+-- CheckpointError        (segformer.errors)
+-- UsageError             the command cannot be carried out as asked; nothing was changed
|   +-- DeniedError        these credentials may not do this to this file, or nobody can
|   +-- UnseenError        a node of the cluster does not see a path
+-- InputError             one input cannot be processed; the others go on
+-- UnfinishedError        the run stopped before every unit had an outcome; run it again
    +-- TransientError     what may pass: a store that does not answer
"""

from __future__ import annotations

import logging

from segformer.errors import CheckpointError, SwathError

__all__ = [
    "CheckpointError",
    "DeniedError",
    "InputError",
    "SwathError",
    "TransientError",
    "UnfinishedError",
    "UnseenError",
    "UsageError",
]

LOG = logging.getLogger("swath")
"""What a user should read while a command runs."""


class UsageError(SwathError):
    """Wrong arguments, a missing path, an output of another job. Exit code 2."""


class DeniedError(UsageError):
    """A store lets nobody do this, or not with these credentials; a folder, a loop of links or a
    name that is too long cannot be read as a file. It says nothing of other files."""


class UnseenError(UsageError):
    """A local path is not there on a node of the cluster. Known only once the output is there."""


class InputError(SwathError):
    """One input is at fault: it is quarantined under `stage` with this message."""

    def __init__(self, message: str, *, url: str, stage: str) -> None:
        super().__init__(message)
        self.message = message
        self.url = url
        self.stage = stage

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling, and errors cross processes.
        return (_input_error, (self.message, self.url, self.stage))


class UnfinishedError(SwathError):
    """The run ended with units left open. Exit code 1."""


class TransientError(UnfinishedError):
    """What may pass: a store that does not answer, a lost connection. Exit code 1."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"{cause}; the same command resumes the run")
        self.cause = cause

    def __reduce__(self) -> tuple[object, ...]:
        return (TransientError, (self.cause,))


def _input_error(message: str, url: str, stage: str) -> InputError:
    return InputError(message, url=url, stage=stage)


def one_line(error: object, fallback: str = "no details") -> str:
    """The text of an error on one line, or `fallback` if it has none."""
    return " ".join(str(error).split()) or fallback

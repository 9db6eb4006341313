"""An error of a stage as a value, on its way through Ray.

Ray Data appends words of its own to the arguments of whatever error it meets, ours included (2.60,
data/_internal/util.py, _annotate_exception_with_retry_context); and Ray keeps no more than the
traceback of an error that cannot be pickled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import SwathError, one_line

_TEXT_CHARS = 300


class PassedError(Exception):
    """What a stage raised, as two values that nothing on the way changes."""

    def __init__(self, cause: SwathError | None, text: str) -> None:
        super().__init__(text)
        self.cause = cause
        """The error, if it is one of ours."""
        self.text = text
        """Its class and what it says, in a few words."""

    def __reduce__(self) -> tuple[object, ...]:
        return (PassedError, (self.cause, self.text))


@contextmanager
def passing_errors() -> Iterator[None]:
    """Raises a PassedError in place of any error of the block."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  raised again, as a value
        text = f"{type(error).__name__}: {one_line(error)[:_TEXT_CHARS]}"
        raise PassedError(error if isinstance(error, SwathError) else None, text) from None

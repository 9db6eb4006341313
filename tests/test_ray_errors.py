"""Ray's errors in our words: without its tracebacks, and without the causes of our own errors."""

from __future__ import annotations

import logging

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from pipeline.cluster.ray_errors import STALLED_UNITS, LoggedErrors
from pipeline.errors import TransientError, UnfinishedError

SECRET = "AKIA123"


def logged(error: Exception) -> logging.LogRecord:
    return logging.LogRecord("ray", logging.ERROR, "", 0, "", (), (type(error), error, None))


def stalled() -> Exception:
    """An error as it leaves a worker: both ours and Ray's, with a traceback as its text."""
    cause = TransientError("s3://b/k: the store does not answer")
    cause.__cause__ = OSError(f"no such key {SECRET}")
    wrapped = RayTaskError("read", f"Traceback ... {SECRET}", cause).as_instanceof_cause()
    assert isinstance(wrapped, TransientError)
    assert "pid=" in str(wrapped)
    return wrapped


def test_a_single_stall_is_named_and_the_round_continues() -> None:
    errors = LoggedErrors()
    assert not errors.filter(logged(stalled()))
    errors.check()
    assert errors.first_reason() == (
        ". The first was lost with s3://b/k: the store does not answer"
    )


def test_many_stalls_end_the_round_with_our_message() -> None:
    errors = LoggedErrors()
    for _ in range(STALLED_UNITS):
        errors.filter(logged(stalled()))
    with pytest.raises(TransientError) as raised:
        errors.check()
    assert str(raised.value) == (
        "s3://b/k: the store does not answer; the same command resumes the run"
    )


def test_a_fatal_error_is_raised_with_the_first_error_as_its_reason() -> None:
    errors = LoggedErrors()
    errors.filter(logged(RayTaskError("read", "Traceback", ZeroDivisionError("by zero"))))
    errors.add_fatal(ActorDiedError())
    with pytest.raises(
        UnfinishedError, match=r"no replica .* lost with ZeroDivisionError: by zero"
    ):
        errors.check()


def test_our_own_error_ends_the_round_unchanged() -> None:
    errors = LoggedErrors()
    errors.add_fatal(stalled())
    with pytest.raises(TransientError) as raised:
        errors.check()
    assert SECRET not in str(raised.value)

"""Ray's errors in our words: without its tracebacks, and without the causes of our own errors."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
from ray.data._internal.util import _annotate_exception_with_retry_context
from ray.exceptions import ActorDiedError, RayTaskError

from pipeline.api import run_request
from pipeline.cluster.passed_error import PassedError, passing_errors
from pipeline.cluster.ray_errors import STALLED_UNITS, LoggedErrors, root_cause
from pipeline.driver.request import Request
from pipeline.errors import CheckpointError, TransientError, UnfinishedError, UsageError
from pipeline.settings import Execution, Settings
from tests.support import troubled_stages
from tests.support.archives import write_scene

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


def passed_through_ray(error: Exception) -> Exception:
    """What the driver sees of an error that a stage raises: with the words that Ray Data appends,
    pickled, and wrapped."""
    with pytest.raises(PassedError) as raised, passing_errors():
        raise error
    annotated = _annotate_exception_with_retry_context(
        raised.value,
        description="apply UDF transform",
        attempts=1,
        max_attempts=1,
        total_backoff_s=0.0,
        exception_str="",
    )
    there = pickle.loads(pickle.dumps(annotated))
    return RayTaskError("read", "Traceback ...", there).as_instanceof_cause()


@pytest.mark.parametrize(
    "error",
    [
        UsageError("the GPU has no memory left"),
        UnfinishedError("out: No space left on device"),
        CheckpointError("m is damaged"),
        TransientError("s3://b/k: gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_our_own_errors_arrive_without_what_ray_appends(error: Exception) -> None:
    errors = LoggedErrors()
    errors.add_fatal(passed_through_ray(error))
    with pytest.raises(type(error)) as raised:
        errors.check()
    assert str(raised.value) == str(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "MemoryError: no details"),
        (KeyError("band"), "KeyError: 'band'"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
        (troubled_stages.StrangeError(), "StrangeError: strange and long"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_reason_of_a_lost_unit_is_the_library_s_and_not_ray_s(
    error: Exception, text: str
) -> None:
    errors = LoggedErrors()
    errors.filter(logged(passed_through_ray(error)))
    assert errors.first_reason() == f". The first was lost with {text}"


def test_the_traceback_of_a_dead_actor_is_left_out() -> None:
    text = "The actor died in __init__\n  File x\npipeline.errors.TransientError: s3://b/k: gone"
    died = ActorDiedError()
    died.error_msg = text
    assert root_cause(died) == "TransientError: s3://b/k: gone"


@pytest.mark.ray
@pytest.mark.slow
def test_an_error_of_ours_ends_a_run_on_ray_with_its_own_words(
    small_checkpoint: str, tmp_path: Path
) -> None:
    write_scene(tmp_path / "in" / "a.tif", 90, 80)
    settings, out = Settings(window=64, stride=48, batch=2), tmp_path / "out"
    request = Request([str(tmp_path / "in")], small_checkpoint, settings, Execution(replicas=1))
    with pytest.raises(UnfinishedError) as raised:
        run_request(request, str(out), stages=troubled_stages.REFUSING)
    assert str(raised.value) == (
        "b: there is no such bucket; what is done is kept, the same command resumes the run"
    )

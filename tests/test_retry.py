"""How errors of a store are classified, without leaking secrets, and how long they are retried."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import ClientConnectionError, ClientPayloadError, ClientResponseError, RequestInfo
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from pipeline.errors import (
    CheckpointError,
    DeniedError,
    InputError,
    SwathError,
    TransientError,
    UnfinishedError,
    UsageError,
)
from pipeline.processes.limits import report_rearms
from pipeline.storage import retry
from pipeline.storage.errors import storage_error, storage_errors
from pipeline.storage.retry import retry_transient

FILE = "s3://bucket/a.tif"
SECRET = "a-secret-that-servers-like-to-repeat"


def s3(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": SECRET}}, "GetObject")


def s3fs(code: str, kind: type[OSError] = OSError) -> OSError:
    """The error of S3 as s3fs passes it on."""
    error = kind(errno.EIO, SECRET) if kind is OSError else kind(SECRET)
    error.__cause__ = s3(code)
    return error


def http(status: int) -> ClientResponseError:
    request = RequestInfo(URL("http://x/a.tif"), "GET", CIMultiDictProxy(CIMultiDict()))
    return ClientResponseError(request, (), status=status, message=SECRET)


CLASSIFICATIONS: list[tuple[BaseException, type[SwathError], str]] = [
    # transient failures
    *((s3fs(code), TransientError, "the store fails") for code in ("SlowDown", "InternalError")),
    *((s3(code), TransientError, "the store fails") for code in ("500", "503", "RequestTimeout")),
    *((http(status), TransientError, "the store fails") for status in (408, 429, 500, 502, 504)),
    (EndpointConnectionError(endpoint_url=SECRET), TransientError, "check the endpoint"),
    (ConnectionClosedError(endpoint_url=SECRET), TransientError, "check the endpoint"),
    (ReadTimeoutError(endpoint_url=SECRET), TransientError, "check the endpoint"),
    (ClientConnectionError(SECRET), TransientError, "check the endpoint"),
    (ClientPayloadError(SECRET), TransientError, "check the endpoint"),
    (ConnectionResetError(), TransientError, "check the endpoint"),
    (TimeoutError(), TransientError, "check the endpoint"),
    (OSError(errno.EIO, "I/O error"), TransientError, "I/O error"),
    (OSError(errno.ESTALE, "Stale file handle"), TransientError, "Stale file handle"),
    (OSError(errno.EMFILE, "Too many open files"), TransientError, "Too many open files"),
    # failures of one file
    (s3fs("AccessDenied", PermissionError), DeniedError, "check the bucket's policy"),
    (s3("InvalidObjectState"), DeniedError, "restore it first"),
    (s3fs("403", PermissionError), DeniedError, "check the AWS_* variables"),
    (http(401), DeniedError, "wants credentials"),
    (http(404), DeniedError, "nothing here"),
    (http(410), DeniedError, "gone"),
    (PermissionError(errno.EACCES, "Permission denied"), DeniedError, "permission denied"),
    (OSError(errno.ELOOP, "Too many levels"), DeniedError, "Too many levels"),
    (OSError(errno.EISDIR, "Is a directory"), DeniedError, "Is a directory"),
    (OSError(errno.ENOTDIR, "Not a directory"), DeniedError, "Not a directory"),
    (OSError(errno.ENAMETOOLONG, "File name too long"), DeniedError, "File name too long"),
    *(
        (OSError(code, os.strerror(code)), DeniedError, os.strerror(code))
        for code in (errno.EUCLEAN, errno.EBADMSG, errno.ENOKEY, errno.EOVERFLOW)
    ),
    # failures that have to be fixed before anything can be done
    (s3fs("SignatureDoesNotMatch", PermissionError), UsageError, "AWS_SECRET_ACCESS_KEY"),
    (s3fs("InvalidAccessKeyId", PermissionError), UsageError, "AWS_ACCESS_KEY_ID"),
    (s3("ExpiredToken"), UsageError, "renew"),
    (s3("RequestTimeTooSkewed"), UsageError, "clock"),
    (NoCredentialsError(), UsageError, '{"anon": true}'),
    (CredentialRetrievalError(provider="p", error_msg=SECRET), UsageError, "profile"),
    (ParamValidationError(report=SECRET), UsageError, "no bucket can have this name"),
    # unforeseen failures
    (s3("NotImplemented"), UnfinishedError, "the store failed (NotImplemented)"),
    (http(418), UnfinishedError, "the store failed (418)"),
    (OSError(errno.ENOSPC, "No space left on device"), UnfinishedError, "No space left on device"),
    (OSError(errno.EROFS, "Read-only file system"), UnfinishedError, "Read-only file system"),
]


def name_of(value: Any) -> str:
    return f"{value!r}"[:40] if isinstance(value, BaseException) else ""


@pytest.mark.parametrize(("error", "kind", "words"), CLASSIFICATIONS, ids=name_of)
def test_each_error_is_classified_without_leaking_a_secret(
    error: BaseException, kind: type[SwathError], words: str
) -> None:
    translated = storage_error(FILE, error)
    assert type(translated) is kind
    assert str(translated).startswith(f"{FILE}: ")
    assert words in str(translated)
    assert SECRET not in str(translated)
    assert "\n" not in str(translated)
    with pytest.raises(kind) as caught, storage_errors(FILE):
        raise error
    assert str(caught.value) == str(translated)
    assert caught.value.__cause__ is error


def caused(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(FILE), FileNotFoundError),
        (FileExistsError(FILE), FileExistsError),
        (ValueError("a mistake of ours"), ValueError),
        (MemoryError(), MemoryError),
        (InputError("bad", url=FILE, stage="read"), InputError),
        # fsspec reports all of these as a missing file
        (caused(FileNotFoundError(FILE), http(404)), FileNotFoundError),
        (caused(FileNotFoundError(FILE), s3("NoSuchKey")), FileNotFoundError),
        (caused(FileNotFoundError(FILE), http(503)), TransientError),
        (caused(FileNotFoundError(FILE), http(403)), DeniedError),
        (caused(FileNotFoundError(FILE), ClientConnectionError()), TransientError),
        (caused(FileNotFoundError(FILE), TimeoutError()), TransientError),
        (caused(FileNotFoundError(FILE), s3("NoSuchBucket")), UsageError),
        # a checkpoint is read by another library, which wraps the errors it meets
        (caused(CheckpointError("bad"), None), CheckpointError),
        (caused(CheckpointError("bad"), FileNotFoundError()), CheckpointError),
        (caused(CheckpointError("bad"), ValueError()), CheckpointError),
        (caused(CheckpointError("bad"), s3("SlowDown")), TransientError),
    ],
    ids=name_of,
)
def test_errors_of_the_store_are_translated_and_others_pass_through(
    error: BaseException, kind: type[BaseException]
) -> None:
    with pytest.raises(BaseException) as caught, storage_errors(FILE):  # noqa: PT011
        raise error
    assert type(caught.value) is kind


class Clock:
    """A clock that advances only in sleep, and in calls that advance it explicitly."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.pauses.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retry, "time", clock)
    return clock


def failing(times: int | None) -> Callable[[], str]:
    """A function that fails this many times (None: always) before it answers."""
    remaining = itertools.count() if times is None else iter(range(times))

    def call() -> str:
        if next(remaining, None) is None:
            return "answer"
        raise TransientError(f"{FILE}: the store fails")

    return call


def test_transient_failures_are_retried_after_growing_pauses(clock: Clock) -> None:
    before = retry.retries_so_far()
    assert retry_transient(failing(9), 300) == "answer"
    assert retry.retries_so_far() == before + 9
    longest_s = [0.5, 1, 2, 4, 8, 15, 15, 15, 15]
    fractions = [pause / longest for longest, pause in zip(longest_s, clock.pauses, strict=True)]
    assert all(0.5 <= fraction <= 1 for fraction in fractions)
    assert len(set(fractions)) > 1


@pytest.mark.parametrize("patience_s", [0.0, 0.1, 7.0, 300.0])
def test_retries_end_exactly_when_the_patience_does(clock: Clock, patience_s: float) -> None:
    with pytest.raises(TransientError, match="the store fails"):
        retry_transient(failing(None), patience_s)
    assert clock.now_s == pytest.approx(1000 + patience_s)


def test_a_call_that_uses_up_the_patience_is_not_retried(clock: Clock) -> None:
    def slow() -> str:
        clock.now_s += 20
        raise TransientError(FILE)

    with pytest.raises(TransientError):
        retry_transient(slow, 15)
    assert clock.pauses == []


def test_only_transient_failures_are_retried(clock: Clock) -> None:
    for error in (UsageError("no"), UnfinishedError("no"), FileNotFoundError(), ValueError()):

        def call(error: Exception = error) -> str:
            raise error

        with pytest.raises(type(error)):
            retry_transient(call)
    assert clock.pauses == []


def test_waiting_for_a_retry_rearms_the_limits(clock: Clock) -> None:
    rearms: list[tuple[float, float]] = []
    with report_rearms(lambda at_least_s: rearms.append((clock.now_s, at_least_s))):
        retry_transient(failing(3), 300)
    starts = list(itertools.accumulate([1000.0, *clock.pauses]))
    ends = [*starts[1:], starts[-1]]
    assert rearms[::2] == [(time_s, retry.SILENT_S) for time_s in starts]
    assert rearms[1::2] == [(time_s, 0.0) for time_s in ends]

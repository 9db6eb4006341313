"""What the errors of a store mean, without a secret, and how long they are waited for."""

from __future__ import annotations

import errno
import itertools
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
    """As s3fs hands it on."""
    error = kind(errno.EIO, SECRET) if kind is OSError else kind(SECRET)
    error.__cause__ = s3(code)
    return error


def http(status: int) -> ClientResponseError:
    asked = RequestInfo(URL("http://x/a.tif"), "GET", CIMultiDictProxy(CIMultiDict()))
    return ClientResponseError(asked, (), status=status, message=SECRET)


VERDICTS: list[tuple[BaseException, type[SwathError], str]] = [
    # what may pass
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
    # one file's own matter
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
    # what somebody has to mend before anything can be done
    (s3fs("SignatureDoesNotMatch", PermissionError), UsageError, "AWS_SECRET_ACCESS_KEY"),
    (s3fs("InvalidAccessKeyId", PermissionError), UsageError, "AWS_ACCESS_KEY_ID"),
    (s3("ExpiredToken"), UsageError, "renew"),
    (s3("RequestTimeTooSkewed"), UsageError, "clock"),
    (NoCredentialsError(), UsageError, '{"anon": true}'),
    (CredentialRetrievalError(provider="p", error_msg=SECRET), UsageError, "profile"),
    (ParamValidationError(report=SECRET), UsageError, "no bucket can have this name"),
    # what nobody has foreseen
    (s3("NotImplemented"), UnfinishedError, "the store failed (NotImplemented)"),
    (http(418), UnfinishedError, "the store failed (418)"),
    (OSError(errno.ENOSPC, "No space left on device"), UnfinishedError, "No space left on device"),
    (OSError(errno.EROFS, "Read-only file system"), UnfinishedError, "Read-only file system"),
]


def name_of(value: Any) -> str:
    return f"{value!r}"[:40] if isinstance(value, BaseException) else ""


@pytest.mark.parametrize(("error", "kind", "words"), VERDICTS, ids=name_of)
def test_each_error_has_its_verdict_and_no_secret(
    error: BaseException, kind: type[SwathError], words: str
) -> None:
    ours = storage_error(FILE, error)
    assert type(ours) is kind
    assert str(ours).startswith(f"{FILE}: ")
    assert words in str(ours)
    assert SECRET not in str(ours)
    assert "\n" not in str(ours)
    with pytest.raises(kind) as caught, storage_errors(FILE):
        raise error
    assert str(caught.value) == str(ours)
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
        # fsspec says of all of these that there is no such file
        (caused(FileNotFoundError(FILE), http(404)), FileNotFoundError),
        (caused(FileNotFoundError(FILE), s3("NoSuchKey")), FileNotFoundError),
        (caused(FileNotFoundError(FILE), http(503)), TransientError),
        (caused(FileNotFoundError(FILE), http(403)), DeniedError),
        (caused(FileNotFoundError(FILE), ClientConnectionError()), TransientError),
        (caused(FileNotFoundError(FILE), TimeoutError()), TransientError),
        (caused(FileNotFoundError(FILE), s3("NoSuchBucket")), UsageError),
        # a checkpoint is read by another library, which wraps what it meets
        (caused(CheckpointError("bad"), None), CheckpointError),
        (caused(CheckpointError("bad"), FileNotFoundError()), CheckpointError),
        (caused(CheckpointError("bad"), ValueError()), CheckpointError),
        (caused(CheckpointError("bad"), s3("SlowDown")), TransientError),
    ],
    ids=name_of,
)
def test_what_is_explained_and_what_passes(error: BaseException, kind: type[BaseException]) -> None:
    with pytest.raises(BaseException) as caught, storage_errors(FILE):  # noqa: PT011
        raise error
    assert type(caught.value) is kind


class Clock:
    """Time passes in sleep only, and in calls that say so."""

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
    """Fails so often, None: always; then answers."""
    left = itertools.count() if times is None else iter(range(times))

    def call() -> str:
        if next(left, None) is None:
            return "answer"
        raise TransientError(f"{FILE}: the store fails")

    return call


def test_what_passes_is_waited_for_in_growing_pauses(clock: Clock) -> None:
    before = retry.retries_so_far()
    assert retry_transient(failing(9), 300) == "answer"
    assert retry.retries_so_far() == before + 9
    wanted = [0.5, 1, 2, 4, 8, 15, 15, 15, 15]
    assert all(w / 2 <= pause <= w for w, pause in zip(wanted, clock.pauses, strict=True))
    assert len({pause / w for w, pause in zip(wanted, clock.pauses, strict=True)}) > 1


@pytest.mark.parametrize("patience_s", [0.0, 0.1, 7.0, 300.0])
def test_patience_ends_exactly(clock: Clock, patience_s: float) -> None:
    with pytest.raises(TransientError, match="the store fails"):
        retry_transient(failing(None), patience_s)
    assert clock.now_s == pytest.approx(1000 + patience_s)


def test_a_call_that_takes_all_patience_is_made_once(clock: Clock) -> None:
    def slow() -> str:
        clock.now_s += 20
        raise TransientError(FILE)

    with pytest.raises(TransientError):
        retry_transient(slow, 15)
    assert clock.pauses == []


def test_only_what_may_pass_is_waited_for(clock: Clock) -> None:
    for error in (UsageError("no"), UnfinishedError("no"), FileNotFoundError(), ValueError()):

        def call(error: Exception = error) -> str:
            raise error

        with pytest.raises(type(error)):
            retry_transient(call)
    assert clock.pauses == []


def test_whoever_waits_gives_signs(clock: Clock) -> None:
    signs: list[tuple[float, float]] = []
    with report_rearms(lambda at_least_s: signs.append((clock.now_s, at_least_s))):
        retry_transient(failing(3), 300)
    began = list(itertools.accumulate([1000.0, *clock.pauses]))
    ended = [*began[1:], began[-1]]
    assert signs[::2] == [(at, retry.SILENT_S) for at in began]
    assert signs[1::2] == [(at, 0.0) for at in ended]

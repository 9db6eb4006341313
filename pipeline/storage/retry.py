"""What an error of a store means: wait and try again, refuse, or stop. In words without a secret.

Knows the errors of the libraries that reach stores (OSError, botocore's, aiohttp's), and nothing of
what was read or written.
"""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from pipeline.errors import (
    LOG,
    CheckpointError,
    DeniedError,
    SwathError,
    TransientError,
    UnfinishedError,
    UsageError,
)
from pipeline.processes.limits import rearm

T = TypeVar("T")

PATIENCE_S = 300.0
"""How long a store may fail before a unit is left open: longer than any restart of one."""
FIRST_S, LONGEST_S = 0.5, 15.0
"""The first pause and the longest one; they double, and are shortened at random by up to a half so
that a thousand workers do not come back at the same moment."""
SILENT_S = 330.0
"""One call may take so long without a sign: aiohttp gives up after 300 s, and botocore, as it is
set, after three tries of 25 s."""

_PASSING_CODES = frozenset(
    {
        *("408", "429", "500", "502", "503", "504"),
        *("SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted"),
        *("RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"),
        *("RequestLimitExceeded", "IncompleteBody", "BadDigest"),
    }
)
_PASSING_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.EAGAIN, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOBUFS),
        *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EREMOTEIO, errno.EBUSY),
    }
)
_REFUSALS = {
    "SignatureDoesNotMatch": "the store refuses the secret; check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the store does not know the key; check AWS_ACCESS_KEY_ID",
    "ExpiredToken": "the credentials have expired; renew them",
    "RequestTimeTooSkewed": "this machine's clock differs from the store's; set it",
    "AccessDenied": "these credentials may not do that here; check the bucket's policy",
    "401": "the store wants credentials; check the AWS_* variables",
    "InvalidObjectState": "it lies in an archive's storage class; restore it first",
    "404": "there is nothing here",
    "410": "this is gone",
    "403": "the store refuses these credentials; check the AWS_* variables, the profile and the"
    " bucket's policy",
    "InvalidBucketName": "no bucket can have this name; check the URL",
    "ParamValidationError": "no bucket can have this name; check the URL",
    "NoCredentialsError": "no credentials were found; set AWS_ACCESS_KEY_ID and"
    " AWS_SECRET_ACCESS_KEY, a profile, or --storage-options '{\"anon\": true}' for public data",
    "PartialCredentialsError": "half of the credentials is missing; check the AWS_* variables",
    "CredentialRetrievalError": "no credentials could be had; check the profile",
    "ProfileNotFound": "there is no such profile; check AWS_PROFILE",
}

_OF_ONE_FILE = ("AccessDenied", "InvalidObjectState", "401", "403", "404", "410")
"""Refusals that say nothing of other files."""
_ERRNOS_OF_ONE_FILE = frozenset(
    {errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.ESPIPE}
)
"""What is there can never be read as a file."""

_MISSING = ("404", "410", "NoSuchKey", "NoSuchBucket")

_tried_again = 0


def tried_again() -> int:
    """How often this process has tried something again; for the receipt."""
    return _tried_again


def patiently(call: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """The call's result; a TransientError is waited out, and raised when patience ends."""
    global _tried_again  # noqa: PLW0603  a count of the process
    started, pause_s = time.monotonic(), FIRST_S
    while True:
        rearm(SILENT_S)  # whoever waits for a store does not hang
        try:
            return call()
        except TransientError as error:
            left_s = started + patience_s - time.monotonic()
            if left_s <= 0:
                raise
            if pause_s > 2.0:  # seconds of trouble are nobody's business
                LOG.warning("%s; trying again for %.0f s", error.cause, left_s)
            time.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))
            pause_s = min(2 * pause_s, LONGEST_S)
            _tried_again += 1
        finally:
            rearm()


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns what a store refuses into a UsageError that names the remedy and no secret, what may
    pass into a TransientError, and what else it fails to do into an UnfinishedError.
    FileNotFoundError and FileExistsError pass."""
    try:
        yield
    except CheckpointError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, FileNotFoundError) or not is_of_a_store(cause):
            raise
        raise in_our_words(url, cause) from error
    except SwathError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__
        if "NoSuchBucket" in str(cause):
            raise UsageError(f"{url}: there is no such bucket; check its name") from error
        # fsspec takes whatever a web server fails to say of a file for "there is none".
        if cause is not None and is_of_a_store(cause) and _code(cause) not in _MISSING:
            ours = in_our_words(url, cause)
            if isinstance(ours, (TransientError, DeniedError)):
                raise ours from cause
        raise
    except FileExistsError:
        raise
    except Exception as error:
        if is_of_a_store(error):
            raise in_our_words(url, error) from error
        raise


def is_of_a_store(error: BaseException) -> bool:
    """botocore's and aiohttp's errors are no OSErrors, and have no base that could be had without
    importing them."""
    return isinstance(error, OSError) or _module(error) in ("botocore", "aiohttp")


def in_our_words(url: str, error: BaseException) -> SwathError:
    """An error of a store, without its text: codes carry no credential."""
    code = _code(error)
    if code in _REFUSALS:
        kind = DeniedError if code in _OF_ONE_FILE else UsageError
        return kind(f"{url}: {_REFUSALS[code]} ({code})")
    if isinstance(error, PermissionError):
        return DeniedError(f"{url}: permission denied ({code})")
    if isinstance(error, OSError) and error.errno in _ERRNOS_OF_ONE_FILE:
        return DeniedError(f"{url}: {error.strerror}")
    if _may_pass(error, code):
        answers = code in _PASSING_CODES
        what = "the store fails" if answers else "the store does not answer; check the endpoint"
        if isinstance(error, OSError) and error.errno and not answers:
            what = error.strerror or what
        return TransientError(f"{url}: {what} ({code})")
    if isinstance(error, OSError) and not _response(error):
        return UnfinishedError(f"{url}: {error.strerror or code}")
    return UnfinishedError(f"{url}: the store failed ({code}); the same command goes on from here")


def _may_pass(error: BaseException, code: str) -> bool:
    if code in _PASSING_CODES:
        return True
    if isinstance(error, OSError) and _module(error) != "botocore":
        connection = isinstance(error, (ConnectionError, TimeoutError))
        return connection or error.errno in _PASSING_ERRNOS or _module(error) == "aiohttp"
    answered = _response(error) or getattr(error, "status", None)
    return not answered  # botocore's and aiohttp's own: no answer, or half of one


def _code(error: BaseException) -> str:
    given = _response(error).get("Error", {}).get("Code") or getattr(error, "status", None)
    return str(given or type(error).__name__)


def _response(error: BaseException) -> dict[str, dict[str, str]]:
    """botocore's, from the error itself or from the OSError that s3fs made of it."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def _module(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]

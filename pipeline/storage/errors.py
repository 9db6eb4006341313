"""Errors of stores, translated into ours: retry, refuse or stop. Messages contain no secrets.

Knows the errors of the libraries that reach stores (OSError, botocore's, aiohttp's), and nothing of
what was read or written.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import (
    CheckpointError,
    DeniedError,
    SwathError,
    TransientError,
    UnavailableError,
    UnfinishedError,
    UsageError,
)

_TRANSIENT_CODES = frozenset(
    {
        *("408", "429", "500", "502", "503", "504"),
        *("SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted"),
        *("RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests"),
        *("RequestLimitExceeded", "IncompleteBody", "BadDigest"),
    }
)
_TRANSIENT_ERRNOS = frozenset(
    {
        *(errno.EIO, errno.EAGAIN, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOBUFS),
        *(errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
        *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EREMOTEIO, errno.EBUSY),
    }
)
_REFUSALS = {
    "SignatureDoesNotMatch": "the store rejects the secret; check AWS_SECRET_ACCESS_KEY",
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
    "CredentialRetrievalError": "no credentials could be obtained; check the profile",
    "ProfileNotFound": "there is no such profile; check AWS_PROFILE",
}
"""What to tell the user about an error code that no retry cures."""
_REFUSALS_OF_WEB_SERVERS = {
    "401": "its server wants a login; download it and name the copy",
    "403": "its server refuses to give it; check the URL, or download it and name the copy",
    "407": "the proxy wants a login; name it as http://USER:PASSWORD@HOST:PORT in https_proxy or"
    " http_proxy",
}
"""The same for http:// and https://, where there are no credentials to check."""

_CODES_OF_ONE_FILE = ("AccessDenied", "InvalidObjectState", "401", "403", "404", "410")
"""Refusals that say nothing about other files."""
_ERRNOS_OF_ONE_FILE = frozenset(
    {
        *(errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.ESPIPE),
        *(errno.EUCLEAN, errno.EBADMSG, errno.ENOKEY, errno.EOVERFLOW),
    }
)
"""The path exists, but can never be read as a file; or its inode is damaged, its name encrypted."""

_MISSING = ("404", "410", "NoSuchKey", "NoSuchBucket")


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Translate the errors of a store: a refusal into a UsageError that names the remedy and no
    secret, a transient failure into a TransientError, any other failure into an UnfinishedError.
    FileNotFoundError and FileExistsError pass unchanged."""
    try:
        yield
    except UnavailableError as error:
        raise TransientError(str(error), error.retry_after_s) from error
    except CheckpointError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, FileNotFoundError) or not is_storage_error(cause):
            raise
        raise storage_error(url, cause) from error
    except SwathError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__
        if "NoSuchBucket" in str(cause):
            raise UsageError(f"{url}: there is no such bucket; check its name") from error
        # fsspec raises FileNotFoundError whatever a web server fails to say about a file.
        if cause is not None and is_storage_error(cause) and _code(cause) not in _MISSING:
            translated = storage_error(url, cause)
            if isinstance(translated, (TransientError, UsageError)):
                raise translated from cause
        raise
    except FileExistsError:
        raise
    except Exception as error:
        if is_storage_error(error):
            raise storage_error(url, error) from error
        raise


def is_storage_error(error: BaseException) -> bool:
    """Whether the error is an OSError, or botocore's or aiohttp's: these are no OSErrors, and have
    no base class that could be had without importing them."""
    return isinstance(error, OSError) or _module(error) in ("botocore", "aiohttp")


def storage_error(url: str, error: BaseException) -> SwathError:
    """The error of ours for a store's. Its text is not quoted, only its code, which carries no
    credential."""
    code = _code(error)
    if refusal := _refusal(url, error, code):
        kind = DeniedError if code in _CODES_OF_ONE_FILE else UsageError
        return kind(f"{url}: {refusal} ({code})")
    if isinstance(error, PermissionError):
        return DeniedError(f"{url}: permission denied ({code})")
    if isinstance(error, OSError) and error.errno in _ERRNOS_OF_ONE_FILE:
        return DeniedError(f"{url}: {error.strerror}")
    if _is_transient(error, code):
        answered = code in _TRANSIENT_CODES
        what = "the store fails" if answered else "the store does not answer; check the endpoint"
        if code in ("ClientProxyConnectionError", "ProxyConnectionError"):
            what = "the proxy does not answer; check https_proxy, http_proxy and no_proxy"
        elif isinstance(error, OSError) and error.errno and not answered:
            what = error.strerror or what
        return TransientError(f"{url}: {what} ({code})")
    if isinstance(error, OSError) and not _response(error):
        return UnfinishedError(f"{url}: {error.strerror or code}")
    return UnfinishedError(f"{url}: the store failed ({code}); the same command resumes the run")


def _refusal(url: str, error: BaseException, code: str) -> str | None:
    """What the user can do about a code that no retry cures; None for any other."""
    if type(error).__name__ == "ClientHttpProxyError" and code in _CODES_OF_ONE_FILE:
        return "the proxy refuses to fetch it; check https_proxy and no_proxy"
    if url.startswith(("http://", "https://")) and code in _REFUSALS_OF_WEB_SERVERS:
        return _REFUSALS_OF_WEB_SERVERS[code]
    return _REFUSALS.get(code)


def _is_transient(error: BaseException, code: str) -> bool:
    if code in _TRANSIENT_CODES:
        return True
    if isinstance(error, OSError) and _module(error) != "botocore":
        connection = isinstance(error, (ConnectionError, TimeoutError))
        return connection or error.errno in _TRANSIENT_ERRNOS or _module(error) == "aiohttp"
    answered = _response(error) or getattr(error, "status", None)
    return not answered  # botocore's and aiohttp's own errors: no answer, or half of one


def _code(error: BaseException) -> str:
    code = _response(error).get("Error", {}).get("Code") or getattr(error, "status", None)
    return str(code or type(error).__name__)


def _response(error: BaseException) -> dict[str, dict[str, str]]:
    """botocore's response, from the error itself or from the OSError that s3fs made of it; empty
    if there is none."""
    for link in (error, error.__cause__):
        response = getattr(link, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def _module(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]

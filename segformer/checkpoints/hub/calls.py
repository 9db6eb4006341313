"""Requests to the Hub: how huggingface_hub sends them, and what its errors mean.

Knows the Hub's answers; knows no file.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, get_session
from huggingface_hub.errors import (
    DisabledRepoError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers

from segformer.checkpoints.folder import without_credentials
from segformer.checkpoints.hub.name import HubName
from segformer.errors import CheckpointError, UnavailableError

_BUSY = (408, 429, 500, 502, 503, 504)
"""Answers after which huggingface_hub would try again by itself, for minutes and without a word."""
_COPY = "or give a copy of its folder: --checkpoint PATH"
_LOG_IN = "`hf auth login`, or the variable HF_TOKEN"
_REFUSALS: dict[type[Exception], str] = {
    OfflineModeIsEnabled: f" is not in {{cache}}, and HF_HUB_OFFLINE is set; unset it, {_COPY}",
    HFValidationError: ": no model can have this name; check it",
    GatedRepoError: f" is gated: accept its terms at {{at}}/{{repo}}, then log in ({_LOG_IN})",
    RepositoryNotFoundError: ": {at} has no such model, or shows it only to those who log in; check"
    f" the name, or log in ({_LOG_IN})",
    RevisionNotFoundError: ": the model has no such revision; name a branch, a tag or a commit of"
    " it",
    DisabledRepoError: f" is disabled on the Hub; name another model, {_COPY}",
    FileMetadataError: ": {at} does not answer as the Hub does; check HF_ENDPOINT",
}
"""What to tell the user about an error that no retry cures; the first that fits counts."""
_ONE_AT_A_TIME = threading.Lock()
"""huggingface_hub is configured by variables of the process."""


class _BusyError(Exception):
    """An answer of the Hub to which a retry may get a better one."""

    def __init__(self, status: int, wait_s: float | None) -> None:
        super().__init__(status)
        self.status, self.wait_s = status, wait_s


@contextmanager
def asking(name: HubName) -> Iterator[None]:
    """For requests of huggingface_hub about a model: by plain HTTP, without retries and messages of
    its own, and with errors of ours."""
    thread = threading.get_ident()

    def check(response: Any) -> None:
        if response.status_code in _BUSY and threading.get_ident() == thread:
            raise _BusyError(response.status_code, _wait_s(response.headers))

    with _ONE_AT_A_TIME, quiet():
        before = constants.HF_HUB_DISABLE_XET, constants.HF_HUB_DISABLE_TELEMETRY
        hooks = get_session().event_hooks["response"]
        constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_TELEMETRY = True
        hooks.append(check)
        try:
            yield
        except (HTTPError, OSError, HFValidationError, _BusyError) as error:
            raise _explained(name, error) from None
        finally:
            hooks.remove(check)
            constants.HF_HUB_DISABLE_XET, constants.HF_HUB_DISABLE_TELEMETRY = before


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of huggingface_hub: what matters is in our errors and notes."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer asks to wait."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isdigit() else None


def endpoint() -> str:
    return without_credentials(constants.ENDPOINT)


def is_offline(error: BaseException | None) -> bool:
    """Whether there was no answer at all."""
    if isinstance(error, LocalEntryNotFoundError):
        return is_offline(error.__cause__)
    no_answer = isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)
    return no_answer or isinstance(error, OfflineModeIsEnabled)


def _explained(name: HubName, error: Exception) -> Exception:
    """Our error for one of huggingface_hub's, whose text is not quoted; others as they are."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    at = endpoint()
    if isinstance(error, HfHubHTTPError) and error.response.status_code in _BUSY:
        error = _BusyError(error.response.status_code, _wait_s(error.response.headers))
    if isinstance(error, _BusyError):
        return _busy(name, error)
    for kind, why in _REFUSALS.items():
        if isinstance(error, kind):
            cache = constants.HF_HUB_CACHE
            return CheckpointError(f"{name}{why.format(at=at, repo=name.repo, cache=cache)}")
    if is_offline(error):
        return UnavailableError(
            f"{name}: {at} does not answer ({type(error).__name__}); check the network, https_proxy"
            f" and HF_ENDPOINT, {_COPY}"
        )
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            why = f"does not let you read it; log in with a token that may ({_LOG_IN})"
        else:
            why = f"refuses it ({status}); check HF_ENDPOINT, {_COPY}"
        return CheckpointError(f"{name}: {at} {why}")
    return _cache_error(name, error) if isinstance(error, OSError) else error


def _busy(name: HubName, error: _BusyError) -> UnavailableError:
    what = f"fails ({error.status})"
    if error.status == 429:
        asks = f", and asks to wait {error.wait_s:.0f} s" if error.wait_s else ""
        what = f"wants fewer requests (429){asks}; those who log in may send more ({_LOG_IN})"
    return UnavailableError(f"{name}: {endpoint()} {what}", error.wait_s)


def _cache_error(name: HubName, error: OSError) -> Exception:
    cache = constants.HF_HUB_CACHE
    if error.errno is None:  # "Consistency check failed", after attempts to go on
        return UnavailableError(f"{name}: a download was cut short")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CheckpointError(
            f"{name}: the Hub's cache {cache} cannot be written to; let HF_HOME name a folder that"
            " can"
        )
    return OSError(error.errno, f"{error.strerror} (the Hub's cache, {cache})")

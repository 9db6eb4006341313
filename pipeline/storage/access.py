"""How local and remote files are reached: the one place that configures fsspec.

Credentials never pass through here: each process finds its own through its provider chain (the
AWS_* variables, profiles, instance roles). Options are small, picklable and not secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from inspect import signature
from typing import Any, Self, cast
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies

import fsspec
from fsspec import AbstractFileSystem as FileSystem

from pipeline.errors import UsageError
from pipeline.processes.endpoint import is_loopback
from pipeline.storage.retry import PATIENCE_S

_S3 = ("s3", "s3a")
_WEB = ("http", "https")
_SECRET_WORDS = ("key", "secret", "token", "pass", "sas", "credential", "authorization")
_SECRET_QUERIES = ("sig", "signature", "token", "key", "secret", "password", "credential")
_NEEDED = """a JSON object is needed, in quotes for the shell: '{"anon": true}'"""
IMPATIENT_S = 10.0
"""The patience with a store while a user watches and nothing has started yet."""
_CONNECT_S, _READ_S = 5, 20
_ATTEMPTS = 3
"""botocore's attempts at one request; `retry.call_store` then retries the whole operation."""


@dataclass(frozen=True)
class Access:
    """The --storage-options, and how patient to be with a store."""

    options: tuple[tuple[str, Any], ...] = ()
    """Names and values, sorted. Checked, except for names that S3 does not know: see `fsspec`."""
    patience_s: float = PATIENCE_S
    """How long to retry transient failures."""

    def __post_init__(self) -> None:
        """Options are recorded with the results, so UsageError for any that looks like a
        credential."""
        for name, value in _flattened(dict(self.options)):
            if any(word in name.lower() for word in _SECRET_WORDS):
                raise UsageError(
                    f"--storage-options: {name!r} looks like a credential; give credentials by the"
                    " AWS_* variables, a profile or an instance role"
                )
            if isinstance(value, str) and "://" in value:
                _check_no_credential(value)
            if name == "endpoint_url" and not str(value).startswith(("http://", "https://")):
                raise UsageError(
                    f"--storage-options: endpoint_url {value!r}: write it with http:// or https://"
                )

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The access for a JSON object such as {"endpoint_url": "https://...", "requester_pays":
        true}. Raises UsageError for other text."""
        if not text:
            return cls()
        try:
            options = json.loads(text.removeprefix("\ufeff"))  # of a file that Notepad saved
        except ValueError as error:
            raise UsageError(f"--storage-options: not JSON ({error}); {_NEEDED}") from error
        if not isinstance(options, dict):
            raise UsageError(f"--storage-options: {_NEEDED}")
        return cls(tuple(sorted(options.items())))

    def impatient(self) -> Self:
        """The same access with less patience, for calls before anything has started: a user is
        watching."""
        return replace(self, patience_s=min(self.patience_s, IMPATIENT_S))

    def filesystem(self, url: str) -> tuple[FileSystem, str]:
        """The file system of a path or URL, and the path on it. Raises UsageError for a scheme that
        nothing installed knows, and for a URL with a credential."""
        url = self.absolute(url)
        if "://" not in url:  # fsspec would take `::` in a name for a chain of file systems
            return fsspec.filesystem("file"), url
        _check_no_credential(url)
        try:
            kind = fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: {error}") from error
        # Not by fsspec.core.url_to_fs, which takes `::` in a key for a chain of file systems.
        fs = kind(**{**kind._get_kwargs_from_urls(url), **self.fsspec(url)})
        if fsspec.utils.get_protocol(url) in _S3:
            fs.retries = 1  # s3fs would multiply botocore's attempts by its own
            fs.session = fs.session or _session(fs.kwargs)
        return fs, str(kind._strip_protocol(url))

    def absolute(self, url: str) -> str:
        """A local path made absolute, with `~` expanded; a URL unchanged. Raises UsageError for an
        empty path, and for `~` if there is no home folder."""
        if not url.strip():
            raise UsageError("an empty path; is a shell variable unset?")
        url = url.removeprefix("file://")
        if "://" in url:
            return url
        path = os.path.expanduser(url)
        if path.partition("/")[0] == "~":  # the user has no entry in passwd, and HOME is not set
            raise UsageError(f"{url}: there is no home folder here; write the whole path")
        return os.path.abspath(path)

    def recordable(self, url: str) -> str:
        """The absolute path or URL, for records. Raises UsageError if it contains a credential."""
        url = self.absolute(url)
        _check_no_credential(url)
        return url

    def fsspec(self, url: str) -> dict[str, Any]:
        """The options for fsspec's file system of a URL. Raises UsageError for one that S3 does not
        know."""
        protocol = fsspec.utils.get_protocol(url)
        if protocol in _S3:
            _check_known(dict(self.options))
            return {**self._s3(), **dict(self.options)}
        if protocol in _WEB and getproxies() and not is_loopback(url):
            # aiohttp's name for: by the proxy of https_proxy and the like, unless no_proxy says no.
            return {"client_kwargs": {"trust_env": True}, **dict(self.options)}
        return {} if protocol == "file" else dict(self.options)

    def _s3(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _READ_S,
            "retries": {"mode": "standard", "max_attempts": _ATTEMPTS},
        }
        endpoint = self._endpoint()
        if endpoint and is_loopback(endpoint):
            config["proxies"] = {}  # those of the environment would look for it on their machine
        if endpoint:  # servers other than Amazon's reject the newer checksums
            config["request_checksum_calculation"] = "when_required"
            config["response_checksum_validation"] = "when_required"
        # Two parts of 50 MB in flight, not ten.
        return {"config_kwargs": config, "use_listings_cache": False, "max_concurrency": 2}

    def _endpoint(self) -> str | None:
        option = dict(self.options).get("endpoint_url")
        return option or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _check_known(options: dict[str, Any]) -> None:
    """Check the names of S3 options: s3fs passes unknown ones on, until something raises
    TypeError."""
    from aiobotocore.session import AioSession  # noqa: PLC0415  only if S3 is used

    callees = (fsspec.get_filesystem_class("s3").__init__, AioSession.__init__)
    known = [name for callee in callees for name in signature(callee).parameters]
    for name in options:
        if name not in known:
            near = get_close_matches(name.lower(), known, 1)
            hint = f"did you mean {near[0]}?" if near else "see the documentation of s3fs"
            raise UsageError(f"--storage-options: unknown key {name!r}; {hint}")


def _session(options: dict[str, Any]) -> Any:
    """The session that s3fs would create, with a faster parser of times: a listing has one for
    each name, and botocore's parser takes nearly as long for them as for everything else."""
    from aiobotocore.session import AioSession  # noqa: PLC0415  only if S3 is used
    from botocore.utils import parse_timestamp  # noqa: PLC0415

    def parse_time(text: Any) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except (TypeError, ValueError):  # the form in headers
            return cast(datetime, parse_timestamp(text))

    session = AioSession(**options)
    session.get_component("response_parser_factory").set_parser_defaults(
        timestamp_parser=parse_time
    )
    return session


def _flattened(options: Any) -> Iterator[tuple[str, Any]]:
    """The names and values of options and of the options nested in them."""
    if isinstance(options, dict):
        for name, value in options.items():
            yield name, value
            yield from _flattened(value)


def _check_no_credential(url: str) -> None:
    """Raise UsageError if a URL contains a credential: URLs are recorded in the plan and the
    tables."""
    parts = urlsplit(url)
    names = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    signed = any(name.endswith(_SECRET_QUERIES) for name in names)
    if "@" in parts.netloc or signed:
        raise UsageError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: holds a credential,"
            " which would be recorded with the results; give credentials by the AWS_* variables"
        )


DEFAULT_ACCESS = Access()
"""No options: only the standard environment variables."""

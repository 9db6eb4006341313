"""How files are reached, local or remote: what fsspec is told, set in this one place.

Credentials never pass through here: each process finds its own by its provider chain (the AWS_*
variables, profiles, instance roles). Options are small, picklable, and no secret.
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

import fsspec
from fsspec import AbstractFileSystem as FileSystem

from pipeline.errors import UsageError
from pipeline.storage.retry import PATIENCE_S

_S3 = ("s3", "s3a")
_SECRETS = ("key", "secret", "token", "pass", "sas", "credential", "authorization")
_SECRET_QUERIES = ("sig", "signature", "token", "key", "secret", "password", "credential")
_NEEDED = """a JSON object is needed, in quotes for the shell: '{"anon": true}'"""
IMPATIENT_S = 10.0
_CONNECT_S, _READ_S = 5, 20
_TRIES = 3
"""By botocore, of one request; beyond that, `retry.call_store` tries the whole operation again."""


@dataclass(frozen=True)
class Access:
    """--storage-options, checked, but for names that S3 does not know: see `fsspec`."""

    options: tuple[tuple[str, Any], ...] = ()
    patience_s: float = PATIENCE_S
    """How long what may pass is waited for."""

    def __post_init__(self) -> None:
        """Options are recorded: raises UsageError for what looks like a credential."""
        for name, value in _named(dict(self.options)):
            if any(word in name.lower() for word in _SECRETS):
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
        """From a JSON object such as {"endpoint_url": "https://...", "requester_pays": true}."""
        if not text:
            return cls()
        try:
            options = json.loads(text)
        except ValueError as error:
            raise UsageError(f"--storage-options: not JSON ({error}); {_NEEDED}") from error
        if not isinstance(options, dict):
            raise UsageError(f"--storage-options: {_NEEDED}")
        return cls(tuple(sorted(options.items())))

    def impatient(self) -> Self:
        """For what is done before anything is started: somebody is looking at it."""
        return replace(self, patience_s=min(self.patience_s, IMPATIENT_S))

    def filesystem(self, url: str) -> tuple[FileSystem, str]:
        """The file system of a URL, and the URL's path on it."""
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
            fs.retries = 1  # s3fs would multiply botocore's tries by its own
            fs.session = fs.session or _session(fs.kwargs)
        return fs, str(kind._strip_protocol(url))

    def absolute(self, url: str) -> str:
        """A local path as an absolute one, `~` expanded; a URL as it is."""
        if not url.strip():
            raise UsageError("an empty path; is a shell variable unset?")
        url = url.removeprefix("file://")
        return url if "://" in url else os.path.abspath(os.path.expanduser(url))

    def recordable(self, url: str) -> str:
        """The absolute path or URL. UsageError where it holds a credential."""
        url = self.absolute(url)
        _check_no_credential(url)
        return url

    def fsspec(self, url: str) -> dict[str, Any]:
        """What fsspec is told about a URL's file system. Raises UsageError for what S3 has not."""
        protocol = fsspec.utils.get_protocol(url)
        if protocol in _S3:
            _check_known(dict(self.options))
            return {**self._s3(), **dict(self.options)}
        return {} if protocol == "file" else dict(self.options)

    def _s3(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "connect_timeout": _CONNECT_S,
            "read_timeout": _READ_S,
            "retries": {"mode": "standard", "max_attempts": _TRIES},
        }
        if self._endpoint():  # other servers than Amazon's refuse the newer checksums
            config["request_checksum_calculation"] = "when_required"
            config["response_checksum_validation"] = "when_required"
        # Two parts of 50 MB under way at a time, not ten.
        return {"config_kwargs": config, "use_listings_cache": False, "max_concurrency": 2}

    def _endpoint(self) -> str | None:
        given = dict(self.options).get("endpoint_url")
        return given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _check_known(options: dict[str, Any]) -> None:
    """s3fs hands on what it does not know, until somebody raises TypeError."""
    from aiobotocore.session import AioSession  # noqa: PLC0415  only where there is S3

    takers = (fsspec.get_filesystem_class("s3").__init__, AioSession.__init__)
    known = [name for taker in takers for name in signature(taker).parameters]
    for name in options:
        if name not in known:
            near = get_close_matches(name.lower(), known, 1)
            hint = f"did you mean {near[0]}?" if near else "see the documentation of s3fs"
            raise UsageError(f"--storage-options: unknown key {name!r}; {hint}")


def _session(options: dict[str, Any]) -> Any:
    """As s3fs would make it, but quick with times: a listing has one for each name, and botocore
    takes nearly as long for that as for all the rest."""
    from aiobotocore.session import AioSession  # noqa: PLC0415  only where there is S3
    from botocore.utils import parse_timestamp  # noqa: PLC0415

    def moment(text: Any) -> datetime:
        try:
            return datetime.fromisoformat(text)
        except (TypeError, ValueError):  # as headers have it
            return cast(datetime, parse_timestamp(text))

    session = AioSession(**options)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
    return session


def _named(options: Any) -> Iterator[tuple[str, Any]]:
    """Options by name, and those within them."""
    if isinstance(options, dict):
        for name, value in options.items():
            yield name, value
            yield from _named(value)


def _check_no_credential(url: str) -> None:
    """URLs are recorded in the plan and the tables."""
    parts = urlsplit(url)
    asked = [name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    signed = any(name.endswith(_SECRET_QUERIES) for name in asked)
    if "@" in parts.netloc or signed:
        raise UsageError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: holds a credential,"
            " which would be recorded with the results; give credentials by the AWS_* variables"
        )


DEFAULT_ACCESS = Access()
"""Nothing but the standard variables."""

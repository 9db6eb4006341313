"""How files are reached, local or remote: what fsspec and GDAL are told, set in this one place.

Credentials never pass through here: each process finds its own by its provider chain (the AWS_*
variables, profiles, instance roles). Options are small, picklable, and no secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem as FileSystem

from pipeline.errors import UsageError

_SECRETS = ("key", "secret", "token", "password", "sas", "credential")
_CONNECT_S, _READ_S = 5, 20
_TRIES = 5

GDAL_HTTP: dict[str, Any] = {
    "GDAL_HTTP_CONNECTTIMEOUT": _CONNECT_S,
    "GDAL_HTTP_TIMEOUT": _READ_S * 3,
    "GDAL_HTTP_MAX_RETRY": _TRIES,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
}
"""GDAL retries nothing unless it is told to."""


@dataclass(frozen=True)
class Access:
    """--storage-options, checked."""

    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """From a JSON object such as {"endpoint_url": "https://...", "requester_pays": true}."""
        if not text:
            return cls()
        try:
            options = json.loads(text)
        except ValueError as error:
            raise UsageError(f"--storage-options: not JSON ({error})") from error
        if not isinstance(options, dict):
            raise UsageError('--storage-options: a JSON object is needed, e.g. {"anon": true}')
        secret = [name for name in options if any(word in name.lower() for word in _SECRETS)]
        if secret:
            raise UsageError(
                f"--storage-options: {secret[0]!r} looks like a credential; give credentials by the"
                " AWS_* variables, a profile or an instance role"
            )
        return cls(tuple(sorted(options.items())))

    def filesystem(self, url: str) -> tuple[FileSystem, str]:
        """The file system of a URL, and the URL's path on it."""
        url = self.absolute(url)
        if "://" not in url:  # fsspec would take `::` in a name for a chain of file systems
            return fsspec.filesystem("file"), url
        try:
            fs, path = fsspec.core.url_to_fs(url, **self.fsspec(url))
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: {error}") from error
        return fs, str(path)

    def absolute(self, url: str) -> str:
        """A local path as an absolute one, `~` expanded; a URL as it is."""
        if not url.strip():
            raise UsageError("an empty path; is a shell variable unset?")
        url = url.removeprefix("file://")
        return url if "://" in url else os.path.abspath(os.path.expanduser(url))

    def fsspec(self, url: str) -> dict[str, Any]:
        """What fsspec is told about a URL's file system."""
        protocol = fsspec.utils.get_protocol(url)
        if protocol in ("s3", "s3a"):
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
        return {"config_kwargs": config, "use_listings_cache": False}

    def _endpoint(self) -> str | None:
        given = dict(self.options).get("endpoint_url")
        return given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")

    def gdal(self, url: str) -> tuple[str, dict[str, Any]]:
        """The URL as GDAL spells it, and the options that it needs for it."""
        parts = urlsplit(url)
        if parts.scheme in ("http", "https"):
            return f"/vsicurl/{url}", GDAL_HTTP
        if parts.scheme not in ("s3", "s3a"):
            return url, {}
        options: dict[str, Any] = dict(GDAL_HTTP)
        given = dict(self.options)
        endpoint = self._endpoint()
        if endpoint:
            server = urlsplit(endpoint)
            options["AWS_S3_ENDPOINT"] = server.netloc
            options["AWS_HTTPS"] = "YES" if server.scheme == "https" else "NO"
            options["AWS_VIRTUAL_HOSTING"] = "FALSE"
        if given.get("anon"):
            options["AWS_NO_SIGN_REQUEST"] = "YES"
        if given.get("requester_pays"):
            options["AWS_REQUEST_PAYER"] = "requester"
        if given.get("profile"):
            options["AWS_PROFILE"] = given["profile"]
        return f"/vsis3/{parts.netloc}{parts.path}", options


PLAIN = Access()
"""Nothing but the standard variables."""


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns refusals of a store into a UsageError that names the remedy and no secret."""
    try:
        yield
    except PermissionError as error:
        code = _code(error)
        raise UsageError(f"{url}: {_REFUSALS.get(code, 'permission denied')} ({code})") from error
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error.__cause__):
            raise UsageError(f"{url}: there is no such bucket") from error
        raise


_REFUSALS = {
    "SignatureDoesNotMatch": "the store refuses the secret; check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the store does not know the key; check AWS_ACCESS_KEY_ID",
    "AccessDenied": "these credentials may not do that here; check the bucket's policy",
    "403": "the store refuses these credentials; check the AWS_* variables, the profile and the"
    " bucket's policy",
}


def _code(error: BaseException) -> str:
    """The store's own word for an error, which carries no credential."""
    response = getattr(error.__cause__, "response", None)
    if response is None:
        return type(error).__name__
    return str(response.get("Error", {}).get("Code", type(error).__name__))

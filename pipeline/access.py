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
from pathlib import PurePosixPath
from typing import Any, Self
from urllib.parse import urlsplit

import fsspec
from fsspec import AbstractFileSystem as FileSystem

from pipeline.errors import SwathError, UnfinishedError, UsageError

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
        _check_no_credential(url)
        try:
            kind = fsspec.get_filesystem_class(fsspec.utils.get_protocol(url))
        except (ImportError, ValueError) as error:
            raise UsageError(f"{url}: {error}") from error
        # Not by fsspec.core.url_to_fs, which takes `::` in a key for a chain of file systems.
        fs = kind(**{**kind._get_kwargs_from_urls(url), **self.fsspec(url)})
        return fs, str(kind._strip_protocol(url))

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
        # Two parts of 50 MB under way at a time, not ten.
        return {"config_kwargs": config, "use_listings_cache": False, "max_concurrency": 2}

    def _endpoint(self) -> str | None:
        given = dict(self.options).get("endpoint_url")
        return given or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")

    def gdal(self, url: str) -> tuple[str, dict[str, Any]]:
        """The URL as GDAL spells it, and the options that it needs for it."""
        scheme, _, place = url.partition("://")
        if scheme in ("http", "https"):
            return f"/vsicurl/{url}", _remote(f"/vsicurl/{url}")
        if scheme not in ("s3", "s3a"):
            return url, {}
        path = f"/vsis3/{place}"  # as it is: `#` and `?` are letters of a key
        options = _remote(path)
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
        return path, options


def _remote(path: str) -> dict[str, Any]:
    """What GDAL needs for any file that is not on this machine's disk."""
    # Else GDAL would answer from its memory for a file that has been replaced since.
    options = {**GDAL_HTTP, "CPL_VSIL_CURL_NON_CACHED": path}
    suffix = PurePosixPath(path).suffix
    if suffix[1:].isalnum():
        # GDAL asks for some 35 files of metadata beside each image, in two requests each (measured:
        # 100 of a scene's 106 requests). These are the ones that pixels and places depend on.
        world = (f"{suffix[:2]}{suffix[-1]}w", f"{suffix}w", ".wld", ".tab")
        wanted = (suffix, ".aux.xml", ".msk", *world)
        options["CPL_VSIL_CURL_ALLOWED_EXTENSIONS"] = ",".join(wanted)
    return options


PLAIN = Access()
"""Nothing but the standard variables."""


def _check_no_credential(url: str) -> None:
    """URLs are recorded in the plan and the tables."""
    parts = urlsplit(url)
    if "@" in parts.netloc or "signature=" in parts.query.lower():
        raise UsageError(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: holds a credential,"
            " which would be recorded with the results; give credentials by the AWS_* variables"
        )


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turns what a store refuses into a UsageError that names the remedy and no secret, and what
    it fails to do into an UnfinishedError. FileNotFoundError and FileExistsError pass."""
    try:
        yield
    except SwathError:
        raise
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error.__cause__):
            raise UsageError(f"{url}: there is no such bucket; check its name") from error
        raise
    except FileExistsError:
        raise
    # botocore's errors are no OSErrors, and have no base that could be had without its import.
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith("botocore"):
            raise _in_our_words(url, error) from error
        raise


_REFUSALS = {
    "SignatureDoesNotMatch": "the store refuses the secret; check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the store does not know the key; check AWS_ACCESS_KEY_ID",
    "AccessDenied": "these credentials may not do that here; check the bucket's policy",
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


def _in_our_words(url: str, error: Exception) -> SwathError:
    """An error of a store, without its text: codes carry no credential."""
    response = getattr(error.__cause__, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", type(error).__name__))
    if code in _REFUSALS:
        return UsageError(f"{url}: {_REFUSALS[code]} ({code})")
    if isinstance(error, PermissionError):
        return UsageError(f"{url}: permission denied ({code})")
    if response or not isinstance(error, OSError):
        what = "the store failed" if response else "the store does not answer; check the endpoint"
        return UnfinishedError(f"{url}: {what} ({code}); the same command goes on from here")
    return UnfinishedError(f"{url}: {error.strerror or code}")

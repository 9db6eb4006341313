"""One folder of a checkpoint's files as bytes, on any file system that fsspec knows.

Knows names and bytes; knows no tensor. (segformer opens fsspec here itself because it must not
import the pipeline's storage.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import fsspec

from segformer.errors import CheckpointError
from segformer.normalisation import PREPROCESSOR

CONFIG = "config.json"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX, PICKLE_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
WEIGHTS = (SAFETENSORS, INDEX, PICKLE, PICKLE_INDEX)
ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
"""Suffixes of files of weights. What a file holds is told by its bytes; its name only says where to
look."""


class Folder:
    """The files of one folder, as bytes."""

    def __init__(
        self, url: str, storage_options: Mapping[str, Any] | None, *, shown_url: str | None = None
    ) -> None:
        """shown_url: what messages name, if not the folder itself."""
        self.shown_url = without_credentials(shown_url or url)
        with self._errors_as("cannot be opened"):
            self.fs, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        self.root = root.rstrip("/")

    def holds_file(self, name: str) -> bool:
        with self._errors_as("cannot be read"):
            try:
                return bool(self.fs.info(f"{self.root}/{name}")["type"] == "file")
            except (FileNotFoundError, NotADirectoryError):
                return False

    def read(self, name: str, end: int | None = None) -> bytes | None:
        """The first `end` bytes of a file, or all; None if there is no such file."""
        with self._errors_as(f"{name} cannot be read"):
            try:
                return bytes(self.fs.cat_file(f"{self.root}/{name}", end=end))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_if_allowed(self, name: str) -> bytes | None:
        """A file's bytes; None if there is no such file, or if a store that lists nothing refuses
        to say so."""
        try:
            return self.read(name)
        except CheckpointError as error:
            if isinstance(error.__cause__, PermissionError):
                return None
            raise

    def write(self, name: str, data: bytes) -> None:
        with self._errors_as(f"{name} cannot be written"):
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.pipe_file(f"{self.root}/{name}", data)

    def existing_files(self) -> list[str]:
        """The names of a checkpoint's files that the folder holds. Raises CheckpointError if it is
        a file."""
        with self._errors_as("cannot be read"):
            if self.fs.isfile(self.root):
                raise CheckpointError(f"{self.shown_url} is a file; name a folder")
            names = (CONFIG, PREPROCESSOR, *WEIGHTS)
            return [name for name in names if self.fs.exists(f"{self.root}/{name}")]

    def why_no_checkpoint(self) -> str:
        """Why a folder without config.json is no checkpoint, and what to give instead."""
        with self._errors_as("cannot be read"):
            if self.fs.isfile(self.root):
                return (
                    f"{self.shown_url} is no checkpoint; give a folder with {CONFIG} and"
                    f" {SAFETENSORS}, or a file of weights ({', '.join(ENDINGS)})"
                )
            if not self.fs.exists(self.root):
                return (
                    f"{self.shown_url} does not exist; give a folder with {CONFIG} and"
                    f" {SAFETENSORS}, or a file of weights ({', '.join(ENDINGS)})"
                )
            paths = [str(path) for path in self.fs.ls(self.root, detail=False)]
        weights = sorted(path.rpartition("/")[2] for path in paths if path.endswith(ENDINGS))
        if weights:
            return f"{self.shown_url} has no {CONFIG}; give one of its files, e.g. {weights[0]}"
        return (
            f"{self.shown_url} has no {CONFIG}; give a checkpoint folder as transformers'"
            " save_pretrained writes it, or a file of weights"
        )

    def weights(self) -> dict[str, bytes]:
        """The bytes of the weight files to use, by name: the first format that is there."""
        if (data := self.read(SAFETENSORS)) is not None:
            return {SAFETENSORS: data}
        if (data := self.read(INDEX)) is not None:
            return self._shards(INDEX, data)
        if (data := self.read(PICKLE)) is not None:
            return {PICKLE: data}
        if (data := self.read(PICKLE_INDEX)) is not None:
            return self._shards(PICKLE_INDEX, data)
        raise CheckpointError(
            f"{self.shown_url} has no weights: none of {', '.join(WEIGHTS)} is there"
        )

    def _shards(self, index: str, data: bytes) -> dict[str, bytes]:
        """The files of weights that the contents of an index name."""
        files = parse(f"{self.shown_url}/{index}", data).get("weight_map") or {}
        if not isinstance(files, dict):
            raise CheckpointError(f"{self.shown_url}/{index}: weight_map is not a JSON object")
        shards = {}
        for name in sorted(set(map(str, files.values()))):
            # The index is input, too: it must not lead out of the folder.
            shard = None if "/" in name or "\\" in name else self.read(name)
            if shard is None:
                raise CheckpointError(f"{self.shown_url}: {index} names {name}, which is not there")
            shards[name] = shard
        return shards

    @contextmanager
    def _errors_as(self, failure: str) -> Iterator[None]:
        """Turns every error into a CheckpointError that says what failed."""
        try:
            yield
        except CheckpointError:
            raise
        # Every fsspec backend has its own exceptions, and all of them mean the same here.
        except Exception as error:
            raise CheckpointError(
                f"{self.shown_url}: {failure}: {type(error).__name__}: {first_line(error)}"
            ) from error


def stated_channels(
    folder_url: str, *, storage_options: Mapping[str, Any] | None = None
) -> int | None:
    """The number of input channels that the config.json of a checkpoint's folder states; None if
    there is none, or none that says so: reading the checkpoint tells why."""
    try:
        data = Folder(folder_url, storage_options).read(CONFIG)
        channels = parse(CONFIG, data).get("num_channels") if data else None
    except CheckpointError:
        return None
    return channels if isinstance(channels, int) else None


def parse(place: str, data: bytes) -> dict[str, Any]:
    """The JSON object in a file. place: the file, for messages. Raises CheckpointError."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{place} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{place} is not a JSON object")
    return fields


def first_line(error: BaseException) -> str:
    """The error's text, short enough for a message of one line."""
    return (str(error).strip().splitlines() or ["no details"])[0].rstrip(".")[:200]


def without_credentials(url: str) -> str:
    """The URL without user, password, query and signature, for messages."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

"""The files of a checkpoint folder, on any file system that fsspec knows.

    config.json                    the network and its classes
    model.safetensors              the weights; or model.safetensors.index.json and its shards,
    pytorch_model.bin              or this pickle
    preprocessor_config.json       optional: the normalisation

Knows names and bytes; knows no tensor. (segformer has its own small door to fsspec, because it
must not import the pipeline's.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import fsspec

from segformer.errors import CheckpointError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = "model.safetensors.index.json"


class Folder:
    """The files of one checkpoint folder, as bytes."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None) -> None:
        self.url = url
        self.shown = without_credentials(url)
        with self._speaking_of("cannot be opened"):
            self.fs, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        self.root = root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """None if there is no such file."""
        with self._speaking_of(f"{name} cannot be read"):
            try:
                return bytes(self.fs.cat_file(f"{self.root}/{name}"))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, data: bytes) -> None:
        with self._speaking_of(f"{name} cannot be written"):
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.pipe_file(f"{self.root}/{name}", data)

    def require_config(self) -> bytes:
        """config.json, or a CheckpointError that says what stands there instead."""
        data = self.read(CONFIG)
        if data is not None:
            return data
        with self._speaking_of("cannot be read"):
            is_file = self.fs.isfile(self.root)
            exists = is_file or self.fs.exists(self.root)
        if is_file:
            raise CheckpointError(f"{self.shown} is a file; give the checkpoint's folder")
        if not exists:
            raise CheckpointError(
                f"{self.shown} does not exist; give a folder with {CONFIG} and {SAFETENSORS}"
            )
        raise CheckpointError(
            f"{self.shown} has no {CONFIG}; give a checkpoint folder as transformers'"
            " save_pretrained writes it"
        )

    def weights(self) -> dict[str, bytes]:
        """The weight files to use, by name, in order of preference."""
        if (data := self.read(SAFETENSORS)) is not None:
            return {SAFETENSORS: data}
        if (data := self.read(INDEX)) is not None:
            return {INDEX: data, **self._shards(data)}
        if (data := self.read(PICKLE)) is not None:
            return {PICKLE: data}
        raise CheckpointError(
            f"{self.shown} has no weights: none of {SAFETENSORS}, {INDEX}, {PICKLE} is there"
        )

    def _shards(self, index: bytes) -> dict[str, bytes]:
        names = sorted(
            set(map(str, (parse(f"{self.shown}/{INDEX}", index).get("weight_map") or {}).values()))
        )
        shards = {}
        for name in names:
            # The index is input, too: it must not lead out of the folder.
            data = None if "/" in name or "\\" in name else self.read(name)
            if data is None:
                raise CheckpointError(f"{self.shown}: {INDEX} names {name}, which is not there")
            shards[name] = data
        return shards

    @contextmanager
    def _speaking_of(self, failure: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        # Every fsspec backend brings exceptions of its own, and all of them mean the same here.
        except Exception as error:
            raise CheckpointError(
                f"{self.shown}: {failure}: {type(error).__name__}: {first_line(error)}"
            ) from error


def parse(place: str, data: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{place} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{place} is not a JSON object")
    return fields


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no details"])[0].rstrip(".")[:200]


def without_credentials(url: str) -> str:
    """The URL without user, password, query and signature, for messages."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

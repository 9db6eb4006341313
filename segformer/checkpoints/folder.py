"""The files of a checkpoint, on any file system that fsspec knows: a folder

    config.json                    the network and its classes
    model.safetensors              the weights; or model.safetensors.index.json and its shards,
    pytorch_model.bin              or this pickle
    preprocessor_config.json       optional: the normalisation

or one file of weights (.pth, .pt, .ckpt, .bin, .safetensors), beside which the two .json files may
lie. Knows names and bytes; knows no tensor. (segformer has its own small door to fsspec, because it
must not import the pipeline's.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import fsspec

from segformer.errors import CheckpointError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
INDEX = "model.safetensors.index.json"
WEIGHTS = (SAFETENSORS, INDEX, PICKLE)
ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
"""Of files of weights. What a file holds is seen in its bytes; its name only says where to look."""
HEAD_BYTES = 16
IMAGES = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"II+\0": "a TIFF image",
    b"MM\0+": "a TIFF image",
    b"\0\0\0\x0cjP": "a JPEG 2000 image",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "compressed with gzip",
    b"<!DO": "a web page",
    b"<htm": "a web page",
    b"version https:/": "a Git LFS pointer, not the file itself",
}
"""First bytes of what is given by mistake, which may be large."""


@dataclass(frozen=True)
class Files:
    """A checkpoint as bytes."""

    shown: str
    """Its folder or file, for messages."""
    config: bytes | None
    preprocessor: bytes | None
    weights: dict[str, bytes]
    """By file name; the index of shards is not among them."""
    single: bool
    """One file was given."""

    def place(self, name: str) -> str:
        """The file of that name, for messages."""
        if not self.single:
            return f"{self.shown}/{name}"
        return self.shown if name in self.weights else f"{self.shown.rpartition('/')[0]}/{name}"


def read_files(url: str, storage_options: Mapping[str, Any] | None) -> Files:
    """The folder or file at a path or URL. Raises CheckpointError if it is no checkpoint."""
    if url.split("?", maxsplit=1)[0].endswith(ENDINGS):
        parent, _, name = url.rpartition("/")
        folder = Folder(parent or ".", storage_options, shown=url)
        if folder.holds_file(name):
            return _single(folder, name)
    folder = Folder(url, storage_options)
    config = folder.read(CONFIG)
    if config is None:
        raise CheckpointError(folder.what_is_there())
    return Files(folder.shown, config, folder.read(PREPROCESSOR), folder.weights(), single=False)


def _single(folder: Folder, name: str) -> Files:
    head = folder.read(name, end=HEAD_BYTES) or b""
    for start, kind in IMAGES.items():
        if head.startswith(start):
            raise CheckpointError(
                f"{folder.shown} is {kind}; give a SegFormer's weights"
                f" ({', '.join(ENDINGS)}) or the folder of a checkpoint"
            )
    data = folder.read(name)
    assert data is not None
    # What signs one file does not open those beside it.
    beside = {n: None if "?" in name else folder.read(n) for n in (CONFIG, PREPROCESSOR)}
    return Files(folder.shown, beside[CONFIG], beside[PREPROCESSOR], {name: data}, single=True)


class Folder:
    """The files of one folder, as bytes."""

    def __init__(
        self, url: str, storage_options: Mapping[str, Any] | None, *, shown: str | None = None
    ) -> None:
        """shown: what messages are about, if not the folder itself."""
        self.shown = without_credentials(shown or url)
        with self._speaking_of("cannot be opened"):
            self.fs, root = fsspec.core.url_to_fs(url, **(storage_options or {}))
        self.root = root.rstrip("/")

    def holds_file(self, name: str) -> bool:
        with self._speaking_of("cannot be read"):
            try:
                return bool(self.fs.info(f"{self.root}/{name}")["type"] == "file")
            except (FileNotFoundError, NotADirectoryError):
                return False

    def read(self, name: str, end: int | None = None) -> bytes | None:
        """The first `end` bytes, or all; None if there is no such file."""
        with self._speaking_of(f"{name} cannot be read"):
            try:
                return bytes(self.fs.cat_file(f"{self.root}/{name}", end=end))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, data: bytes) -> None:
        with self._speaking_of(f"{name} cannot be written"):
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.pipe_file(f"{self.root}/{name}", data)

    def there(self) -> list[str]:
        """Which files of a checkpoint are there already. Raises CheckpointError for a file."""
        with self._speaking_of("cannot be read"):
            if self.fs.isfile(self.root):
                raise CheckpointError(f"{self.shown} is a file; name a folder")
            names = (CONFIG, PREPROCESSOR, *WEIGHTS)
            return [name for name in names if self.fs.exists(f"{self.root}/{name}")]

    def what_is_there(self) -> str:
        """What stands where there is no config.json, and what to give instead."""
        with self._speaking_of("cannot be read"):
            if self.fs.isfile(self.root):
                return (
                    f"{self.shown} is no checkpoint; give a folder with {CONFIG} and {SAFETENSORS},"
                    f" or a file of weights ({', '.join(ENDINGS)})"
                )
            if not self.fs.exists(self.root):
                return (
                    f"{self.shown} does not exist; give a folder with {CONFIG} and {SAFETENSORS},"
                    f" or a file of weights ({', '.join(ENDINGS)})"
                )
            paths = [str(path) for path in self.fs.ls(self.root, detail=False)]
        weights = sorted(path.rpartition("/")[2] for path in paths if path.endswith(ENDINGS))
        if weights:
            return f"{self.shown} has no {CONFIG}; give one of its files, e.g. {weights[0]}"
        return (
            f"{self.shown} has no {CONFIG}; give a checkpoint folder as transformers'"
            " save_pretrained writes it, or a file of weights"
        )

    def weights(self) -> dict[str, bytes]:
        """The weight files to use, by name, in order of preference."""
        if (data := self.read(SAFETENSORS)) is not None:
            return {SAFETENSORS: data}
        if (data := self.read(INDEX)) is not None:
            return self._shards(data)
        if (data := self.read(PICKLE)) is not None:
            return {PICKLE: data}
        raise CheckpointError(
            f"{self.shown} has no weights: none of {SAFETENSORS}, {INDEX}, {PICKLE} is there"
        )

    def _shards(self, index: bytes) -> dict[str, bytes]:
        places = parse(f"{self.shown}/{INDEX}", index).get("weight_map") or {}
        if not isinstance(places, dict):
            raise CheckpointError(f"{self.shown}/{INDEX}: weight_map is not a JSON object")
        shards = {}
        for name in sorted(set(map(str, places.values()))):
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

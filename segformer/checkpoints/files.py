"""The files of a checkpoint as bytes, and their digest: a folder

    config.json                    the network and its classes
    model.safetensors              the weights; or model.safetensors.index.json and its shards,
    pytorch_model.bin              or this pickle, or pytorch_model.bin.index.json and its shards
    preprocessor_config.json       optional: the normalization
    albumentations_config_eval.json    the same, beside a config.json of smp

or one file of weights (.pth, .pt, .ckpt, .bin, .safetensors), beside which the three .json files
may be. Knows names and bytes; knows no tensor and no file system.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segformer.checkpoints import smp
from segformer.checkpoints.folder import CONFIG, ENDINGS, PREPROCESSOR, Folder
from segformer.checkpoints.hub.name import HubName, is_hub_name, name_of_page
from segformer.checkpoints.transforms import TRANSFORMS
from segformer.checkpoints.variants import ADAPTER_CONFIG, adapter_refusal
from segformer.errors import CheckpointError

HEAD_BYTES = 16
"""Read first, to recognize what is no file of weights."""
MISTAKES = {
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
"""First bytes of files that are given by mistake and may be large, and what they are."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
"""The part of a shard's name that says which one it is, as transformers writes it."""


@dataclass(frozen=True)
class Files:
    """The files of one checkpoint as bytes."""

    shown_url: str
    """The folder or file as messages name it, without credentials."""
    config: bytes | None
    """config.json; None if there is none."""
    preprocessor: bytes | None
    """preprocessor_config.json; None if there is none."""
    transforms: bytes | None
    """albumentations_config_eval.json, beside a config.json of segmentation_models_pytorch; None if
    there is none."""
    weights: dict[str, bytes]
    """Files of weights by file name; the index of shards is not among them."""
    is_single: bool
    """Whether one file of weights was given, not a folder."""

    def shown_file(self, name: str) -> str:
        """The file of that name as messages name it."""
        if not self.is_single:
            return f"{self.shown_url}/{name}"
        if name in self.weights:
            return self.shown_url
        return f"{self.shown_url.rpartition('/')[0]}/{name}"

    def sha256(self) -> str:
        """Identity of the checkpoint: a digest of the files' names, lengths and bytes.

        A single file of weights may be renamed without becoming another checkpoint.
        """
        parts = dict(self.weights)
        if self.is_single:
            parts = {"weights": next(iter(parts.values()))}
        beside = (self.config, self.preprocessor, self.transforms)
        for name, data in zip((CONFIG, PREPROCESSOR, TRANSFORMS), beside, strict=True):
            if data is not None:
                parts[name] = data
        digest = hashlib.sha256()
        for name, data in sorted(parts.items()):
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()


def open_folder(url: str, storage_options: Mapping[str, Any] | None) -> Folder:
    """The folder at a path or URL, or of a model's name on the Hub. Raises CheckpointError."""
    if is_hub_name(url):
        from segformer.checkpoints.hub.folder import HubFolder  # noqa: PLC0415  half a second, for its names only

        return HubFolder(HubName.parse(url))
    if name := name_of_page(url):
        raise CheckpointError(f"{url} is a page of the Hub; name the model, as {name}")
    return Folder(url, storage_options)


def is_weight_file(url: str) -> bool:
    """Whether a path or URL is named as a file of weights, not as a folder."""
    return url.split("?", maxsplit=1)[0].endswith(ENDINGS) and not is_hub_name(url)


def read_files(url: str, storage_options: Mapping[str, Any] | None) -> Files:
    """Read the folder or file at a path or URL, or the model of a name on the Hub. Raises
    CheckpointError if it is no checkpoint."""
    if is_weight_file(url):
        parent, _, name = url.rpartition("/")
        folder = Folder(parent or ".", storage_options, shown_url=url)
        if folder.holds_file(name):
            return _read_single(folder, name)
    folder = open_folder(url, storage_options)
    config = folder.read(CONFIG)
    if (adapter := folder.read_if_allowed(ADAPTER_CONFIG)) is not None:
        raise CheckpointError(f"{folder.shown_url} {adapter_refusal(adapter)}")
    if config is None:
        raise CheckpointError(folder.why_no_checkpoint())
    preprocessor, transforms = folder.read(PREPROCESSOR), _transforms(folder, config)
    weights = folder.weights()
    return Files(folder.shown_url, config, preprocessor, transforms, weights, is_single=False)


def _read_single(folder: Folder, name: str) -> Files:
    if (shard := _SHARD.search(name)) and int(shard[2]) > 1:
        raise CheckpointError(
            f"{folder.shown_url} is part {int(shard[1])} of {int(shard[2])}; give the folder of the"
            " parts"
        )
    head = folder.read(name, end=HEAD_BYTES) or b""
    for start, kind in MISTAKES.items():
        if head.startswith(start):
            raise CheckpointError(
                f"{folder.shown_url} is {kind}; give a SegFormer's weights"
                f" ({', '.join(ENDINGS)}) or the folder of a checkpoint"
            )
    data = folder.read(name)
    assert data is not None
    # The signature in a URL's query opens this one file, not those beside it.
    signed = "?" in name
    config, preprocessor = (None if signed else folder.read(n) for n in (CONFIG, PREPROCESSOR))
    transforms = _transforms(folder, config)
    return Files(folder.shown_url, config, preprocessor, transforms, {name: data}, is_single=True)


def _transforms(folder: Folder, config: bytes | None) -> bytes | None:
    """The file of transforms, which counts beside smp's config.json alone."""
    return folder.read(TRANSFORMS) if smp.parse_config(config) else None

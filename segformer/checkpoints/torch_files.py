"""Files of torch.save, in both of its formats, without torch's unpickler.

    zip      NAME/data.pkl, and one uncompressed entry NAME/data/KEY per storage (from 1.6 on)
    legacy   pickles one after the other: a magic number, a version, the machine, the value, the
             keys of the storages; then each storage, its length before it

As torch/serialization.py writes them (2.13). Knows no network. Nothing is believed of a file that
its bytes do not bear out: a tensor is a claim on a storage until it is read.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segformer.checkpoints import pickles
from segformer.checkpoints.pickles import Inert, Name
from segformer.errors import CheckpointError

ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_STORAGES = {
    f"{module}.{name}Storage": dtype
    for module in ("torch", "torch.cuda")
    for name, dtype in _DTYPES.items()
}
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_LENGTH = struct.Struct("<q")
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which training programs keep the weights, beside their own state."""


@dataclass(eq=False)
class Storage:
    """Values of one type in a row."""

    dtype: torch.dtype
    count: int
    bytes_: memoryview | None = None
    """None as long as they have not been found in the file."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that has not been read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """A tensor with memory of its own. Raises CheckpointError if the file does not hold it."""
        storage, size = self.storage, self.storage.dtype.itemsize
        numbers = (self.offset, *self.shape, *self.stride)
        valid = all(isinstance(n, int) and n >= 0 for n in numbers)
        if not valid or len(self.shape) != len(self.stride) or storage.bytes_ is None:
            raise CheckpointError("a tensor is not what torch writes; the file is damaged")
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        here = len(storage.bytes_) // size
        if here != storage.count or prod(self.shape) > here or self.offset + reach >= max(here, 1):
            raise CheckpointError(
                f"a tensor of the shape {list(self.shape)} lies beyond the {here} values that are"
                " there; the file is truncated or damaged: fetch it again"
            )
        if not prod(self.shape):
            return torch.empty(self.shape, dtype=storage.dtype)
        span = storage.bytes_[self.offset * size : (self.offset + reach + 1) * size]
        values = torch.from_numpy(np.frombuffer(span, np.uint8).copy()).view(storage.dtype)
        return values.as_strided(self.shape, self.stride)


def state_dict(data: bytes) -> tuple[dict[str, Tensor], Mapping[Any, Any]]:
    """The named tensors of a file of torch.save, and what it says about itself (`meta`).

    Raises CheckpointError for what is code or no state dict; and whatever a damaged file provokes.
    """
    value = _read_zip(data) if data.startswith(ZIP) else _read_legacy(data)
    outer = value if isinstance(value, dict) else {}
    value = next((outer[name] for name in WRAPPERS if name in outer), value)
    if isinstance(value, Inert):
        raise CheckpointError(
            f"holds a whole {value.name}, which would have to be executed; where you trust it, load"
            " it with the program that wrote it and save its state_dict() instead"
        )
    stored = value.items() if isinstance(value, dict) else ()
    tensors = {name: tensor for name, tensor in stored if isinstance(tensor, Stored)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError("is not a state dict: it must map names to tensors")
    claimed = sum(prod(t.shape) * t.storage.dtype.itemsize for t in tensors.values())
    if claimed > len(data):
        raise CheckpointError(
            f"claims tensors of {claimed:,} bytes in a file of {len(data):,}; it is damaged"
        )
    meta = outer.get("meta")
    return _read_all(tensors), meta if isinstance(meta, dict) else {}


def _read_all(tensors: Mapping[str, Stored]) -> dict[str, Tensor]:
    read = {}
    for name, tensor in tensors.items():
        try:
            read[name] = tensor.read()
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
    return read


def _read_zip(data: bytes) -> Any:
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    root = next((n.removesuffix("data.pkl") for n in names if n.endswith("data.pkl")), None)
    if root is None or f"{root}constants.pkl" in names:
        what = "a zip archive, but none of torch.save" if root is None else "a TorchScript program"
        raise CheckpointError(f"is {what}; save the network's state_dict() with torch.save")
    if (
        f"{root}byteorder" in names
        and bytes(_entry(archive, data, f"{root}byteorder")) != b"little"
    ):
        raise CheckpointError("is big-endian; write it again on another machine")
    storages = _Storages()
    pickle = io.BytesIO(_entry(archive, data, f"{root}data.pkl"))
    value = pickles.load(pickle, MEANINGS, storages.find)
    for key, storage in storages.known.items():
        storage.bytes_ = _entry(archive, data, f"{root}data/{key}")
    return value


def _entry(archive: zipfile.ZipFile, data: bytes, name: str) -> memoryview:
    """The bytes of one entry, where they lie: nothing is unpacked, so nothing can be a bomb."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise CheckpointError(f"{name} is compressed, which torch.save never does; save it again")
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack_from(data, info.header_offset)
    start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    if signature != ZIP or start + info.file_size > len(data):
        raise CheckpointError(f"{name} is not where the archive says; fetch the file again")
    return memoryview(data)[start : start + info.file_size]


def _read_legacy(data: bytes) -> Any:
    file, storages = io.BytesIO(data), _Storages()
    magic, version, machine = (pickles.load(file, {}) for _ in range(3))
    if (magic, version) != (_MAGIC, _VERSION):
        raise CheckpointError(f"is no file of torch.save of a known version ({version})")
    if not isinstance(machine, dict) or not machine.get("little_endian", True):
        raise CheckpointError("is big-endian; write it again on another machine")
    value = pickles.load(file, MEANINGS, storages.find)
    for key in pickles.load(file, {}):
        storage = storages.known[str(key)]
        (count,) = _LENGTH.unpack(file.read(_LENGTH.size))
        start, length = file.tell(), count * storage.dtype.itemsize
        if not 0 <= length <= len(data) - start:
            raise EOFError(f"a storage of {count} values goes on beyond the end of the file")
        storage.bytes_ = memoryview(data)[start : start + length]
        file.seek(length, io.SEEK_CUR)
    return value


class _Storages:
    """What the persistent ids of one file stand for."""

    def __init__(self) -> None:
        self.known: dict[str, Storage] = {}

    def find(self, saved_id: Any) -> Any:
        if not isinstance(saved_id, tuple) or len(saved_id) < 5 or saved_id[0] != "storage":
            return Inert("module")
        kind, key, _, count, *views = saved_id[1:]
        dtype = _STORAGES.get(kind.path) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str | int) or any(v is not None for v in views):
            # Complex or quantised numbers, or a format older than torch 0.4: no weights of ours.
            return Inert("storage")
        storage = self.known.setdefault(str(key), Storage(dtype, count))
        return storage if storage.dtype == dtype else Inert("storage")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage) or not _all_tuples(shape, stride):
        return Inert("tensor")
    return Stored(storage, offset, shape, stride)


def _all_tuples(*values: Any) -> bool:
    return all(isinstance(value, tuple) for value in values)


def _first(value: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return value


def _subclass(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes is the tensor."""
    meaning = MEANINGS.get(function.path) if isinstance(function, Name) else None
    return meaning(*arguments) if meaning and _all_tuples(arguments) else Inert("tensor")


def _ordered_dict(items: Sequence[Any] = ()) -> dict[Any, Any]:
    return pickles.pairs(list(_flat(items)))


def _flat(items: Sequence[Any]) -> Iterator[Any]:
    for key, value in items:
        yield key
        yield value


MEANINGS: pickles.Meanings = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _subclass,
}

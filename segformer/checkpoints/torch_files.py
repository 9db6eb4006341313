"""Files of torch.save, in both of its formats, without torch's unpickler.

    zip      NAME/data.pkl, and one uncompressed entry NAME/data/KEY per storage (from 1.6 on)
    legacy   pickles one after the other: a magic number, a version, the machine, the value, the
             keys of the storages; then each storage, its length before it

As torch/serialization.py writes them (2.13). Knows tensors by name; knows no network. Believes
nothing of a file that its bytes do not bear out: a tensor is a claim on a storage until it is read.
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
from segformer.checkpoints.pickles import Global, InertObject
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
"""Keys under which training programs keep the weights, beside their own state."""


@dataclass(eq=False)
class Storage:
    """A run of values of one type, which tensors are views of."""

    dtype: torch.dtype
    count: int
    """The number of values, as the pickle claims."""
    data: memoryview | None = None
    """The values' bytes; None until they have been found in the file."""


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that has not been read yet, as the pickle claims it to be."""

    storage: Storage
    offset: int
    """Position of the first value in the storage, counted in values."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """Counted in values."""

    def read(self) -> Tensor:
        """The tensor, in its own memory. Raises CheckpointError if the file does not hold it."""
        storage, size = self.storage, self.storage.dtype.itemsize
        numbers = (self.offset, *self.shape, *self.stride)
        valid = all(isinstance(n, int) and n >= 0 for n in numbers)
        if not valid or len(self.shape) != len(self.stride) or storage.data is None:
            raise CheckpointError("a tensor is not what torch writes; the file is damaged")
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        held = len(storage.data) // size
        if held != storage.count or prod(self.shape) > held or self.offset + reach >= max(held, 1):
            raise CheckpointError(
                f"a tensor of the shape {list(self.shape)} lies beyond the {held} values that are"
                " there; the file is truncated or damaged: fetch it again"
            )
        if not prod(self.shape):
            return torch.empty(self.shape, dtype=storage.dtype)
        span = storage.data[self.offset * size : (self.offset + reach + 1) * size]
        values = torch.from_numpy(np.frombuffer(span, np.uint8).copy()).view(storage.dtype)
        return values.as_strided(self.shape, self.stride)


def read_state_dict(data: bytes) -> tuple[dict[str, Tensor], Mapping[Any, Any]]:
    """The named tensors of a file of torch.save, and what it says about itself (`meta`).

    Raises CheckpointError for what is code or no state dict; and any exception whatever for a
    damaged file.
    """
    value = _read_zip(data) if data.startswith(ZIP) else _read_legacy(data)
    outer = value if isinstance(value, dict) else {}
    value = next((outer[name] for name in WRAPPERS if name in outer), value)
    if isinstance(value, InertObject):
        raise CheckpointError(
            f"holds a whole {value.name}, which would have to be executed; if you trust it, load"
            " it with the program that wrote it and save its state_dict() instead"
        )
    stored = value.items() if isinstance(value, dict) else ()
    tensors = {name: tensor for name, tensor in stored if isinstance(tensor, StoredTensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError("is not a state dict: it must map names to tensors")
    claimed = sum(prod(t.shape) * t.storage.dtype.itemsize for t in tensors.values())
    if claimed > len(data):
        raise CheckpointError(
            f"claims tensors of {claimed:,} bytes in a file of {len(data):,}; it is damaged"
        )
    meta = outer.get("meta")
    return _read_all(tensors), meta if isinstance(meta, dict) else {}


def _read_all(tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
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
    value = pickles.load(pickle, BUILDERS, storages.find)
    for key, storage in storages.by_key.items():
        storage.data = _entry(archive, data, f"{root}data/{key}")
    return value


def _entry(archive: zipfile.ZipFile, data: bytes, name: str) -> memoryview:
    """The bytes of one entry, in place: nothing is unpacked, so nothing can be a zip bomb."""
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
    value = pickles.load(file, BUILDERS, storages.find)
    for key in pickles.load(file, {}):
        storage = storages.by_key[str(key)]
        (count,) = _LENGTH.unpack(file.read(_LENGTH.size))
        start, length = file.tell(), count * storage.dtype.itemsize
        if not 0 <= length <= len(data) - start:
            raise EOFError(f"a storage of {count} values extends beyond the end of the file")
        storage.data = memoryview(data)[start : start + length]
        file.seek(length, io.SEEK_CUR)
    return value


class _Storages:
    """The storages of one file."""

    def __init__(self) -> None:
        self.by_key: dict[str, Storage] = {}

    def find(self, saved_id: Any) -> Any:
        """The storage that a persistent id names."""
        if not isinstance(saved_id, tuple) or len(saved_id) < 5 or saved_id[0] != "storage":
            return InertObject("module")
        kind, key, _, count, *views = saved_id[1:]
        dtype = _STORAGES.get(kind.path) if isinstance(kind, Global) else None
        if dtype is None or not isinstance(key, str | int) or any(v is not None for v in views):
            # Complex or quantized numbers, or a format older than torch 0.4: no weights of ours.
            return InertObject("storage")
        storage = self.by_key.setdefault(str(key), Storage(dtype, count))
        return storage if storage.dtype == dtype else InertObject("storage")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    if not isinstance(storage, Storage) or not _all_tuples(shape, stride):
        return InertObject("tensor")
    return StoredTensor(storage, offset, shape, stride)


def _all_tuples(*values: Any) -> bool:
    return all(isinstance(value, tuple) for value in values)


def _parameter(value: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return value


def _subclass(function: Any, _type: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes is the tensor."""
    build = BUILDERS.get(function.path) if isinstance(function, Global) else None
    return build(*arguments) if build and _all_tuples(arguments) else InertObject("tensor")


def _ordered_dict(items: Sequence[Any] = ()) -> dict[Any, Any]:
    return pickles.pairs(list(_flat(items)))


def _flat(items: Sequence[Any]) -> Iterator[Any]:
    for key, value in items:
        yield key
        yield value


BUILDERS: pickles.Builders = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
}
"""How a state dict is put together, without torch's own functions."""

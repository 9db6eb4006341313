"""Files of torch.save, in both of its formats, without torch's unpickler.

    zip      NAME/data.pkl, and one uncompressed entry NAME/data/KEY per storage (from 1.6 on)
    legacy   pickles one after the other: a magic number, a version, the machine, the value, the
             keys of the storages; then each storage, its length before it

As torch/serialization.py writes them (2.13). Knows tensors by name; knows no network.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from segformer.checkpoints import pickles
from segformer.checkpoints.pickles import Global, InertObject
from segformer.checkpoints.stored_tensor import Storage, StoredTensor
from segformer.checkpoints.variants import quantized_refusal
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
_QUANTIZED = ("torch._utils._rebuild_qtensor", "torch._utils._rebuild_wrapper_subclass")
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs keep the weights, beside their own state."""


@dataclass(frozen=True)
class TorchFile:
    """What a file of torch.save holds, tensors not yet read."""

    tensors: dict[str, StoredTensor]
    """Those of the state dict."""
    beside: dict[str, StoredTensor]
    """Those of other dicts in the file, by the keys that lead to them, joined by dots:
    `ema_state_dict.module.conv.weight`. Keys that are no text, as those of optimizers, lead
    nowhere."""
    outer: Mapping[Any, Any]
    """What is beside the state dict, such as `meta`."""


def open_torch_file(data: bytes) -> TorchFile:
    """The named tensors of a file of torch.save, and what else it holds.

    Raises CheckpointError for what is code or no state dict; and any exception whatever for a
    damaged file.
    """
    value = _read_zip(data) if data.startswith(ZIP) else _read_legacy(data)
    outer = value if isinstance(value, dict) else {}
    key = next((name for name in WRAPPERS if name in outer), None)
    if key is not None:
        value = outer[key]
    if isinstance(value, InertObject):
        raise CheckpointError(
            f"holds a whole {value.name}, which would have to be executed; if you trust it, load"
            " it with the program that wrote it and save its state_dict() instead"
        )
    stored = value if isinstance(value, dict) else {}
    tensors = {name: tensor for name, tensor in stored.items() if isinstance(tensor, StoredTensor)}
    quantized = [name for name, kind in stored.items() if _is_quantized(kind)]
    if quantized:
        raise CheckpointError(quantized_refusal("torch", map(str, quantized)))
    others = {k: v for k, v in (*stored.items(), *outer.items()) if isinstance(v, dict)}
    others = {k: v for k, v in others.items() if v is not value}
    beside = dict(_named_tensors(others))
    if not (tensors or beside) or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError("is not a state dict: it must map names to tensors")
    return TorchFile(tensors, beside, outer)


def _is_quantized(value: Any) -> bool:
    """Whether something in a state dict is a quantized tensor, which has a scale of its own."""
    return isinstance(value, InertObject) and value.name in _QUANTIZED


def _named_tensors(outer: Mapping[Any, Any]) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors in dicts of dicts, under their keys joined by dots; every dict once."""
    waiting: list[tuple[str, Mapping[Any, Any]]] = [("", outer)]
    seen: set[int] = set()
    while waiting:
        path, values = waiting.pop(0)
        for key, value in values.items():
            if not isinstance(key, str):
                continue
            if isinstance(value, StoredTensor):
                yield path + key, value
            elif isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{path}{key}.", value))


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

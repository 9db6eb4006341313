"""A row of the flow as bytes: arrays side by side in one byte tensor, which Ray hands over without
copying. Knows nothing of what is packed."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

Row = dict[str, Any]
_ALIGNMENT = 64


def pack(value: object) -> Row:
    """A picklable value as its skeleton and one byte tensor that holds its arrays side by side."""
    buffers: list[pickle.PickleBuffer] = []
    skeleton = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    offsets, end = [], 0
    for raw in raws:
        offsets.append((end, raw.nbytes))
        end += -(-raw.nbytes // _ALIGNMENT) * _ALIGNMENT
    data = np.zeros(max(end, 1), np.uint8)
    for raw, (start, size) in zip(raws, offsets, strict=True):
        data[start : start + size] = raw
    return {"head": pickle.dumps((skeleton, offsets)), "data": data}


def unpack(head: bytes, data: np.ndarray) -> Any:
    """The value that was packed; its arrays are views of `data`."""
    skeleton, offsets = pickle.loads(head)
    memory = np.ascontiguousarray(data).data
    return pickle.loads(skeleton, buffers=[memory[start : start + n] for start, n in offsets])

"""A value as a row of Ray Data: its arrays side by side in one byte tensor, which Ray hands over
without copying.

Does not know what is packed.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

Row = dict[str, Any]
"""Columns `head` (bytes) and `data` (uint8 `(n,)`), or `unit` (bytes) before anything is read."""
_ALIGNMENT_BYTES = 64


def pack(value: object) -> Row:
    """A picklable value as the pickle of its skeleton (`head`) and its arrays' bytes (`data`)."""
    buffers: list[pickle.PickleBuffer] = []
    skeleton = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    offsets, end = [], 0
    for raw in raws:
        offsets.append((end, raw.nbytes))
        end += -(-raw.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    data = np.zeros(max(end, 1), np.uint8)
    for raw, (start, size) in zip(raws, offsets, strict=True):
        data[start : start + size] = raw
    return {"head": pickle.dumps((skeleton, offsets)), "data": data}


def unpack(head: bytes, data: np.ndarray) -> Any:
    """The value that was packed; its arrays are views of `data`."""
    skeleton, offsets = pickle.loads(head)
    memory = np.ascontiguousarray(data).data
    return pickle.loads(skeleton, buffers=[memory[start : start + n] for start, n in offsets])

"""Rows and columns to Arrow tables. Knows no table by name, and no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

_CHUNK_VALUES = 256


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table from one dict per row; a missing key is null."""
    return pa.Table.from_pylist(rows, schema=schema)


@dataclass(frozen=True)
class Lists:
    """A column of lists of structs."""

    lengths: Sequence[int]
    """The length of each row's list."""
    fields: dict[str, np.ndarray]
    """Each field's values, all lists end to end; a masked array is null where it is masked."""


def table_of_columns(columns: dict[str, Lists | list[Any]], schema: pa.Schema) -> pa.Table:
    """A table from one list of values per column. Values of a binary column may be arrays in C
    order."""
    arrays = []
    for field in schema:
        values = columns[field.name]
        if isinstance(values, Lists):
            arrays.append(_list_array(values, field.type))
        elif values and isinstance(values[0], np.ndarray):
            arrays.append(_binary_array(values))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.table(arrays, schema=schema)


def _list_array(lists: Lists, kind: pa.ListType) -> pa.Array:
    fields = list(kind.value_type)
    children = [pa.array(lists.fields[field.name], field.type) for field in fields]
    offsets = np.cumsum([0, *lists.lengths], dtype=np.int32)
    structs = pa.StructArray.from_arrays(children, fields=fields)
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=kind)


def _binary_array(values: list[np.ndarray]) -> pa.ChunkedArray:
    """Copies each byte once. In chunks, because the offsets of one have 32 bits."""
    chunks = []
    for start in range(0, len(values), _CHUNK_VALUES):
        chunk = values[start : start + _CHUNK_VALUES]
        offsets = np.cumsum([0, *(value.nbytes for value in chunk)], dtype=np.int32)
        data = b"".join(value.data for value in chunk)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        chunks.append(pa.Array.from_buffers(pa.binary(), len(chunk), buffers))
    return pa.chunked_array(chunks, pa.binary())

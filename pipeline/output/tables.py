"""The schemas of the five tables and of a unit's file, and how they are written as Parquet.

Knows no path and no network. `geometry` is WKB in OGC:CRS84 with GeoParquet 1.1.0 metadata
(https://geoparquet.org/releases/v1.1.0/).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 256

_BBOX = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
_PLACE = [("geometry", pa.binary()), ("bbox", _BBOX)]
_GRID = [("crs", pa.string()), ("transform", pa.list_(pa.float64()))]
_CLASS_PIXELS = pa.struct(
    [
        ("class_id", pa.int32()),
        ("pixels", pa.int64()),
        ("area_m2", pa.float64()),
        ("mean_confidence", pa.float64()),
    ]
)
_CLASS_CONFIDENCE = pa.struct(
    [("class_id", pa.int32()), ("confidence", pa.int64()), ("samples", pa.int64())]
)

MASKS = pa.schema(
    [
        ("scene_id", pa.string()),
        ("tile_col", pa.int32()),
        ("tile_row", pa.int32()),
        ("col_off", pa.int32()),
        ("row_off", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("valid_pixels", pa.int64()),
        ("majority_class", pa.int32()),
        ("mean_confidence", pa.float64()),
        ("class_pixels", pa.list_(_CLASS_PIXELS)),
        ("mask_dtype", pa.string()),
        ("nodata", pa.int32()),
        *_GRID,
        *_PLACE,
        ("mask", pa.binary()),
    ]
)
"""A row is one mask tile of a scene's grid."""

STATISTICS = pa.schema(
    [
        ("scene_id", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("pixels", pa.int64()),
        ("fraction", pa.float64()),
        ("area_m2", pa.float64()),
        ("mean_confidence", pa.float64()),
    ]
)
"""A row is one class that occurs in one scene."""

SCENES = pa.schema(
    [
        ("scene_id", pa.string()),
        ("url", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bands", pa.list_(pa.int32())),
        ("dtype", pa.string()),
        *_GRID,
        ("datetime", pa.string()),
        ("valid_pixels", pa.int64()),
        ("status", pa.string()),
        *_PLACE,
    ]
)
"""A row is one input; status: done, partial or quarantined."""

CLASSES = pa.schema([("class_id", pa.int32()), ("name", pa.string()), ("color", pa.string())])

QUARANTINE = pa.schema(
    [(name, pa.string()) for name in ("scene_id", "url", "stage", "window", "error", "message")]
)
"""A row is something that could not be processed."""

UNIT = MASKS.append(pa.field("class_confidence", pa.list_(_CLASS_CONFIDENCE)))
"""A unit's file: rows of `masks`, with the integer sums from which a scene's means are made."""

SHARD_TABLES = {
    "masks": MASKS,
    "statistics": STATISTICS,
    "scenes": SCENES,
    "quarantine": QUARANTINE,
}

_UNIT_KEY = b"swath"


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)


@dataclass(frozen=True)
class Lists:
    """A column of lists of structs."""

    lengths: Sequence[int]
    """Of each row's list."""
    fields: dict[str, np.ndarray]
    """Of all lists, one after the other; null where an array is masked."""


def table_of_columns(columns: dict[str, Lists | list[Any]], schema: pa.Schema) -> pa.Table:
    """The same from columns; of type binary may be arrays, in C's order."""
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
    """Each byte is copied once; in chunks, for the offsets of one have 32 bits."""
    chunks = []
    for start in range(0, len(values), ROW_GROUP_ROWS):
        some = values[start : start + ROW_GROUP_ROWS]
        offsets = np.cumsum([0, *(value.nbytes for value in some)], dtype=np.int32)
        buffers = [
            None,
            pa.py_buffer(offsets),
            pa.py_buffer(b"".join(value.data for value in some)),
        ]
        chunks.append(pa.Array.from_buffers(pa.binary(), len(some), buffers))
    return pa.chunked_array(chunks, pa.binary())


def bbox_struct(bbox: tuple[float, float, float, float]) -> dict[str, float]:
    return dict(zip(("xmin", "ymin", "xmax", "ymax"), bbox, strict=True))


class Writer:
    """Writes a table's row groups to an open file."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, outcome: dict[str, Any] | None = None):
        """outcome: kept in the footer of a unit's file."""
        metadata = geo_metadata(schema)
        if outcome is not None:
            metadata[_UNIT_KEY] = json.dumps(outcome).encode()
        self._schema = schema.with_metadata(metadata or None)
        # Masks and geometries neither repeat nor sort: dictionaries and statistics only cost.
        plain = [name for name in schema.names if name not in ("mask", "geometry")]
        leaves = [name for name in _leaves(schema) if name.split(".")[0] in plain]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=[n for n in leaves if _is_text(schema, n)],
            write_statistics=leaves,
        )

    def write(self, table: pa.Table) -> None:
        """One row group for every ROW_GROUP_ROWS rows."""
        table = table.select(self._schema.names).cast(self._schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def close(self) -> None:
        self._writer.close()


def write_table(file: BinaryIO, table: pa.Table, outcome: dict[str, Any] | None = None) -> None:
    writer = Writer(file, table.schema, outcome)
    writer.write(table)
    writer.close()


def read_outcome(file: BinaryIO) -> dict[str, Any]:
    """What `outcome` was when the unit's file was written; reads the footer only."""
    metadata = pq.ParquetFile(file).schema_arrow.metadata
    outcome: dict[str, Any] = json.loads(metadata[_UNIT_KEY])
    return outcome


def geo_metadata(schema: pa.Schema) -> dict[bytes, bytes]:
    """GeoParquet's, of a table or result with a column `geometry`: WKB in OGC:CRS84, and `bbox`
    where that came along."""

    def holds(name: str, kind: pa.DataType) -> bool:
        return name in schema.names and schema.field(name).type == kind

    if not holds("geometry", pa.binary()):
        return {}
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": []}
    if holds("bbox", _BBOX):
        corners = ("xmin", "ymin", "xmax", "ymax")
        column["covering"] = {"bbox": {corner: ["bbox", corner] for corner in corners}}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {b"geo": json.dumps(geo).encode()}


def _leaves(schema: pa.Schema) -> list[str]:
    """Parquet's names of the leaf columns."""
    names = []
    for field in schema:
        if pa.types.is_struct(field.type):
            names += [f"{field.name}.{child.name}" for child in field.type]
        elif pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type):
            names += [f"{field.name}.list.element.{child.name}" for child in field.type.value_type]
        elif pa.types.is_list(field.type):
            names.append(f"{field.name}.list.element")
        else:
            names.append(field.name)
    return names


def _is_text(schema: pa.Schema, leaf: str) -> bool:
    return leaf in schema.names and pa.types.is_string(schema.field(leaf).type)

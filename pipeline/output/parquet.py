"""Tables as Parquet files: compression, row groups, GeoParquet's metadata, a unit's outcome.

`geometry` is WKB in OGC:CRS84 (https://geoparquet.org/releases/v1.1.0/). Knows open files, no
paths.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.schemas import MASKS, UNIT
from pipeline.settings import ROW_GROUP_ROWS

_UNIT_KEY = b"swath"


class Writer:
    """Writes a table's row groups to an open file."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, outcome: dict[str, Any] | None = None):
        """outcome: kept in the footer of a unit's file."""
        metadata = geo_metadata(schema)
        if outcome is not None:
            metadata[_UNIT_KEY] = _with_checksum(json.dumps(outcome).encode())
        self._schema = schema.with_metadata(metadata or None)
        # Masks and geometries neither repeat nor sort: dictionaries and statistics only cost.
        plain = [name for name in schema.names if name not in ("mask", "geometry")]
        leaves = [name for name in _leaves(schema) if name.split(".")[0] in plain]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="zstd",
            use_dictionary=[name for name in leaves if _is_text(schema, name)],
            write_statistics=leaves,
            write_page_checksum=outcome is not None,  # a unit's file is computed again if need be
        )

    def write(self, table: pa.Table) -> None:
        """Write one row group for every ROW_GROUP_ROWS rows."""
        table = table.select(self._schema.names).cast(self._schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def close(self) -> None:
        self._writer.close()


def write_table(file: BinaryIO, table: pa.Table, outcome: dict[str, Any] | None = None) -> None:
    """Write a whole table; outcome: as in Writer."""
    writer = Writer(file, table.schema, outcome)
    writer.write(table)
    writer.close()


def read_outcome(file: BinaryIO) -> dict[str, Any]:
    """The outcome with which a unit's file was written; reads the footer only. Raises ValueError or
    an error of pyarrow if the footer is not what was written."""
    return _outcome_in(pq.ParquetFile(file).schema_arrow)


def read_unit(file: BinaryIO) -> tuple[pa.Table, dict[str, Any]]:
    """The rows and the outcome of a unit's file. Raises ValueError or an error of pyarrow if the
    file is not what was written."""
    table = pq.read_table(file, page_checksum_verification=True)
    if not table.schema.equals(UNIT):
        raise ValueError("the columns are not those of a unit")
    return table, _outcome_in(table.schema)


def _outcome_in(schema: pa.Schema) -> dict[str, Any]:
    stored = schema.metadata[_UNIT_KEY]
    checksum, _, text = stored.partition(b" ")
    if stored.startswith(b"{"):  # of Swath 0.1.0, which had no checksums
        text = stored
    elif _with_checksum(text) != checksum + b" " + text:
        raise ValueError("the outcome is not what its checksum says")
    outcome: dict[str, Any] = json.loads(text)
    return outcome


def _with_checksum(text: bytes) -> bytes:
    """Parquet has checksums for pages, but none for its footer."""
    return b"%08x " % zlib.crc32(text) + text


def geo_metadata(schema: pa.Schema) -> dict[bytes, bytes]:
    """GeoParquet's metadata for a table or result with a column `geometry` (WKB in OGC:CRS84), with
    the covering if `bbox` is there, too; empty if there is no such column."""

    def has(name: str) -> bool:
        return name in schema.names and schema.field(name).type == MASKS.field(name).type

    if not has("geometry"):
        return {}
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": []}
    if has("bbox"):
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


def look_for_pandas() -> None:
    """Let pyarrow look for pandas now, which it does once, before it converts its first list."""
    pa.array([0])

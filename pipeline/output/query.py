"""SQL over the published tables of an output. Knows DuckDB, not how tables are written.

DuckDB gets the tables as Arrow datasets that Python opens, and no access to files at all. Views
over read_parquet, with the files as DuckDB's allowed_paths, would scan faster; but a path that may
be read may be written, too, and `WITH x AS (COPY ... TO 'masks/0.parquet' (USE_TMP_FILE false))`
counts as a SELECT and overwrites it (DuckDB 2.0). Datasets prune row groups, too, except by lower
bounds of doubles, which DuckDB does not push down: NaN > 0 holds in SQL and not in Arrow. So a
bounding box prunes by its `xmin <=` and `ymin <=` only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.errors import SwathError, UsageError
from pipeline.job import Job
from pipeline.output.layout import TABLE_GONE, Output, table_path
from pipeline.output.parquet import geo_metadata
from pipeline.output.schemas import CLASSES, SHARD_TABLES, SQL_TABLES
from pipeline.storage.access import DEFAULT_ACCESS, Access

TABLES = tuple(SQL_TABLES)

# unnest is in a select list, where DuckDB pushes filters below it; behind a lateral join it
# would read every row group of `masks` (measured: 17 ms against 1.7 s for one scene of 3,900).
_TILE_STATISTICS = """
CREATE VIEW tile_statistics AS
SELECT scene_id, tile_col, tile_row, p.class_id, classes.name AS class_name,
       p.pixels, p.area_m2, p.mean_confidence, bbox
FROM (SELECT scene_id, tile_col, tile_row, bbox, unnest(class_pixels) AS p FROM masks)
LEFT JOIN classes ON classes.class_id = p.class_id
"""
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoload_known_extensions": False,
    "autoinstall_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
    "temp_directory": "",
}
"""No files, no network, no extensions, no Python variables as tables, nothing spilled to disk."""

_WINDOW = re.compile(r"""(?<!["'\w])window(?!["'\w])""", re.IGNORECASE)
"""A column of `quarantine`, not quoted."""


@dataclass(frozen=True)
class OpenedOutput:
    """An output to query from Python: `open_output(OUT).query("SELECT ...")`."""

    url: str
    job: Job
    """Settings, checkpoint and classes, as recorded."""
    access: Access

    def query(self, sql: str) -> pa.Table:
        """The same as `query`, over what is published at the moment of the call."""
        return query(self.url, sql, self.access)


def open_output(url: str, access: Access = DEFAULT_ACCESS) -> OpenedOutput:
    """Open an output for queries. Raises UsageError if there is none."""
    return OpenedOutput(url, Output.open(url, access.impatient()).job, access)


def query(output: str, sql: str, access: Access = DEFAULT_ACCESS) -> pa.Table:
    """The result of one SELECT (also WITH, DESCRIBE, SUMMARIZE, SHOW, EXPLAIN, PIVOT).

    Tables: masks, statistics, scenes, quarantine and classes as published, and `tile_statistics`,
    a row per mask tile and class. Column names of the result are unique. Raises UsageError if
    nothing is published or the SQL is wrong, SwathError if it ran and failed.
    """
    connection = _connect(Output.open(output, access.impatient()), output)
    try:
        _check_is_question(connection, sql)
        result = connection.sql(sql)
        if result is None:
            raise UsageError("the SQL asks for nothing: write a SELECT")
        return _with_integers(_with_unique_names(result.to_arrow_table()))
    except duckdb.Error as error:
        raise _swath_error(error, sql) from error
    finally:
        connection.close()


def write_parquet(table: pa.Table, file: BinaryIO) -> None:
    """Write a result as one Parquet file, as GeoParquet if it has the column `geometry`.

    Raises UsageError if a type of the result does not exist in Parquet.
    """
    table = table.replace_schema_metadata(geo_metadata(table.schema) or None)
    try:
        pq.write_table(table, file, compression="zstd")
    except pa.ArrowNotImplementedError as error:
        raise UsageError(f"Parquet cannot hold this result: {error}; CAST the column") from error


def _connect(output: Output, url: str) -> duckdb.DuckDBPyConnection:
    shards = sorted(output.committed())
    if not shards:
        planned = len(output.store.list("plan"))
        raise UsageError(
            f"{url}: nothing is published yet (0 of {planned} shards);"
            " the `swath run` that fills it is still at work, or must be started again"
        )
    connection = duckdb.connect(":memory:", config=_CLOSED)
    for name, schema in SHARD_TABLES.items():
        _register(connection, output, name, [table_path(name, shard) for shard in shards], schema)
    _register(connection, output, "classes", ["classes.parquet"], CLASSES)
    connection.execute(_TILE_STATISTICS)
    connection.execute("SET lock_configuration = true")
    return connection


def _register(
    connection: duckdb.DuckDBPyConnection,
    output: Output,
    name: str,
    paths: list[str],
    schema: pa.Schema,
) -> None:
    # With a schema, no file is opened before a query needs it; and files of earlier versions, whose
    # columns are not described, are the same table.
    fs, root = output.store.fsspec()
    files = [f"{root}/{path}" for path in paths]
    try:
        dataset = ds.dataset(files, schema=schema, format="parquet", filesystem=fs)
    except FileNotFoundError as error:
        raise UsageError(f"{error}: {TABLE_GONE}") from error
    connection.register(name, dataset)


def _check_is_question(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse other statements with a plain answer; the closed connection is what stops them.

    Raises UsageError.
    """
    statements = connection.extract_statements(sql)
    if not statements:
        raise UsageError("the SQL is empty: ask something, such as SELECT * FROM statistics")
    if len(statements) != 1:
        raise UsageError(f"one SQL statement at a time, not {len(statements)}")
    allowed = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
    # A PIVOT without an IN list is two statements in one to DuckDB.
    if statements[0].type not in (*allowed, duckdb.StatementType.MULTI):
        name = statements[0].type.name
        raise UsageError(
            f"only questions are answered: a SELECT, not {name}; tables stay as they are"
        )


def _with_unique_names(table: pa.Table) -> pa.Table:
    """Two columns called `a` become `a` and `a_1`, as JSON objects and Parquet require."""
    names: list[str] = []
    for name in table.column_names:
        unique, n = name, 0
        while unique in names:
            n += 1
            unique = f"{name}_{n}"
        names.append(unique)
    return table.rename_columns(names)


def _with_integers(table: pa.Table) -> pa.Table:
    """Sums of integers as int64: DuckDB's 128 bits arrive as decimals, which few tools add up."""
    for index, field in enumerate(table.schema):
        if field.type == pa.decimal128(38, 0):
            try:
                column = table.column(index).cast(pa.int64())
            except pa.ArrowInvalid:
                continue  # too large for int64: exact as a decimal
            table = table.set_column(index, field.name, column)
    return table


def _swath_error(error: duckdb.Error, sql: str) -> SwathError:
    message = str(error).split("\n\nLINE ")[0]
    tables = ", ".join(TABLES)
    if isinstance(error, duckdb.CatalogException) and message.startswith("Catalog Error: Table"):
        # DuckDB would continue with the most similar of its own system tables.
        message = f"{message.splitlines()[0]} The tables are: {tables}"
    elif isinstance(error, duckdb.PermissionException):
        message = f"SQL sees nothing but the tables {tables} ({message})"
    elif isinstance(error, duckdb.ParserException) and _WINDOW.search(sql):
        message += '; write the column "window" in double quotes: it is a word of SQL'
    if "INSTALL" in message:  # an extension that DuckDB would fetch
        message = message.split("Please try")[0].split("\n\nAn attempt")[0]
        message += " `swath query` has no extensions; open OUT's Parquet files in your own DuckDB"
    message = f"SQL: {' '.join(message.split())}"
    if isinstance(error, (duckdb.OperationalError, duckdb.InternalError)):
        return SwathError(message)
    return UsageError(message)

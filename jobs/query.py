"""`swath query`: SQL over the tables of an output. Parses, calls, prints."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from jobs import options, text
from pipeline.storage.access import Access

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_SHOWN = 50
"""The number of rows that `--format table` prints; the other formats print all."""
CELL_CHARACTERS = 60
"""The longest list or struct in a cell of a table, in characters."""
TEXT_CHARACTERS = 300
"""The longest text in a cell of a table: messages of `quarantine` must be readable."""
COLUMNS_FOLDED = 8
"""The number of columns up to which a table is fitted to the terminal and text is wrapped."""


@click.command()
@options.output_arg
@click.argument("sql", metavar="SQL")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help=f"Format of the rows. table: the first {ROWS_SHOWN} rows, for people. csv: all rows"
    " with a header. json: an array of objects and nothing else; NaN is null, binary is hex, times"
    " are ISO 8601. parquet: a Parquet file, to be redirected.",
)
@options.storage_opt
def query(output: str, sql: str, form: str, storage_options: str | None) -> None:
    """Answer one SELECT over the published tables of OUT.

    Tables: masks, statistics, scenes, classes, quarantine, and tile_statistics (a row per mask
    tile and class). The dialect is DuckDB's. SQL sees nothing but these tables and changes
    nothing.
    """
    if form == "parquet" and sys.stdout.isatty():
        raise click.UsageError("--format parquet writes binary: redirect it, e.g. > rows.parquet")
    from pipeline.output.query import query as run_query  # noqa: PLC0415  so that help does not wait for it
    from pipeline.output.query import write_parquet  # noqa: PLC0415

    rows = run_query(output, sql, Access.parse(storage_options))
    match form:
        case "csv":
            write_csv(rows)
        case "json":
            write_json(rows)
        case "parquet":
            write_parquet(rows, sys.stdout.buffer)
        case _:
            write_table(rows)


def write_json(rows: pa.Table) -> None:
    """Print an array with one object per line, readable by eye and by line."""
    click.echo("[", nl=False)
    for index, row in enumerate(_rows(rows)):
        click.echo((",\n" if index else "") + text.to_json(row), nl=False)
    click.echo("]")


def write_csv(rows: pa.Table) -> None:
    """Print a header and all rows. NULL is empty; lists and structs are JSON."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(rows.column_names)
    for row in _rows(rows):
        writer.writerow([_csv_cell(value) for value in row.values()])


def write_table(rows: pa.Table) -> None:
    """Print the first rows as a table, as wide as the terminal."""
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    fold = rows.num_columns <= COLUMNS_FOLDED
    for field in rows.schema:
        number = str(field.type).startswith(("int", "uint", "float", "double", "decimal"))
        table.add_column(
            Text(field.name),
            justify="right" if number else "left",
            no_wrap=not fold,
            overflow="fold" if fold else "ellipsis",
        )
    for row in _rows(rows.slice(0, ROWS_SHOWN)):
        table.add_row(*(Text(_table_cell(value)) for value in row.values()))
    # A file or a pipe has no width, and too many columns would shrink to nothing.
    width = None if fold and sys.stdout.isatty() else 100_000
    Console(file=sys.stdout, width=width, color_system=None, highlight=False).print(table)
    total = text.count(rows.num_rows, "row")
    if rows.num_rows > ROWS_SHOWN:
        total += f", the first {ROWS_SHOWN} shown; --format csv or json prints all"
    click.echo(f"({total})")


def _rows(rows: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return text.to_json(value)
    return value if isinstance(value, float) else text.plain(value)


def _table_cell(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bytes():
            return f"<{text.size(len(value))}>"
        case float():
            # Areas keep their whole part, fractions six significant digits.
            return f"{value:.3f}" if abs(value) >= 1000 else f"{value:.6g}"
        case list() | dict():
            return _cut(text.to_json(value), CELL_CHARACTERS)
    cell = str(text.plain(value)).rstrip()
    # Text of several lines is a plan drawn by EXPLAIN.
    return cell if "\n" in cell else _cut(cell, TEXT_CHARACTERS)


def _cut(cell: str, characters: int) -> str:
    return cell if len(cell) <= characters else cell[: characters - 1] + "…"

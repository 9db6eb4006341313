"""Compares finished outputs: their rows, bit for bit, and their files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ORDER = {
    "masks": ["scene_id", "tile_row", "tile_col"],
    "statistics": ["scene_id", "class_id"],
    "scenes": ["scene_id"],
    "quarantine": ["scene_id", "window"],
}
"""What sorts the rows of each table into one order."""


def rows(output: Path, table: str) -> pa.Table:
    """Every row of a published table, in one order."""
    files = sorted((output / table).glob("*.parquet"))
    whole = pa.concat_tables([pq.read_table(file) for file in files])
    return whole.sort_by([(name, "ascending") for name in ORDER[table]])


def differences(one: Path, other: Path, *tables: str) -> list[str]:
    """The columns whose values are not equal, bit for bit."""
    found = []
    for table in tables or tuple(ORDER):
        left, right = rows(one, table), rows(other, table)
        if left.num_rows != right.num_rows:
            found.append(f"{table}: {left.num_rows} rows and {right.num_rows}")
            continue
        found += [
            f"{table}.{name}"
            for name in left.column_names
            if not left[name].combine_chunks().equals(right[name].combine_chunks())
        ]
    return found


def stray_files(output: Path) -> list[str]:
    """Files of a finished output that have no business there."""
    shards = {file.stem for file in (output / "plan").iterdir()}
    expected = {"job.json", "classes.parquet"}
    expected |= {f"plan/{s}.json" for s in shards} | {f"commits/{s}.json" for s in shards}
    expected |= {f"{table}/{s}.parquet" for s in shards for table in ORDER}
    files = {str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()}
    return sorted(name for name in files - expected if not name.startswith("runs/"))

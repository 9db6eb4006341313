"""The contents of an output, on disk or at any URL: rows bit for bit, files, finished units.

Reads the files as any tool would, without the code that wrote them. An output is a path or a URL;
its store is reached as a run would reach it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.access import DEFAULT_ACCESS

ORDER = {
    "masks": ["scene_id", "tile_row", "tile_col"],
    "statistics": ["scene_id", "class_id"],
    "scenes": ["scene_id"],
    "quarantine": ["scene_id", "window"],
}
"""The columns by which the rows of each table are sorted."""

Place = Path | str


def files(output: Place) -> list[str]:
    """Every file, relative to the output, sorted; none if there is no output."""
    fs, root = DEFAULT_ACCESS.filesystem(str(output))
    return sorted(name.removeprefix(f"{root}/") for name in fs.find(root))


def read(output: Place, name: str) -> bytes:
    """The bytes of a file of the output."""
    fs, root = DEFAULT_ACCESS.filesystem(str(output))
    return bytes(fs.cat_file(f"{root}/{name}"))


def rows(output: Place, table: str) -> pa.Table:
    """Every row of a published table, sorted by ORDER."""
    names = [name for name in files(output) if name.startswith(f"{table}/")]
    parts = [read(output, name) for name in names if name.endswith(".parquet")]
    whole = pa.concat_tables([pq.read_table(pa.BufferReader(part)) for part in parts])
    return whole.sort_by([(name, "ascending") for name in ORDER[table]])


def mask_by_rows(output: Place, scene_id: str, width: int, height: int) -> np.ndarray:
    """A scene's class ids (height, width) assembled from its mask tiles; nodata where no tile is.
    SceneMask is tested against it."""
    tiles = [row for row in rows(output, "masks").to_pylist() if row["scene_id"] == scene_id]
    mask = np.full((height, width), tiles[0]["nodata"], tiles[0]["mask_dtype"])
    for tile in tiles:
        shape = (tile["height"], tile["width"])
        origin = np.s_[tile["row_off"] :, tile["col_off"] :]
        mask[origin][: shape[0], : shape[1]] = np.frombuffer(
            tile["mask"], tile["mask_dtype"]
        ).reshape(shape)
    return mask


def differences(one: Place, other: Place, *tables: str) -> list[str]:
    """The columns whose values are not equal bit for bit, as `table.column`."""
    different = []
    for table in tables or tuple(ORDER):
        left, right = rows(one, table), rows(other, table)
        if left.num_rows != right.num_rows:
            different.append(f"{table}: {left.num_rows} rows and {right.num_rows}")
            continue
        different += [
            f"{table}.{name}"
            for name in left.column_names
            if not left[name].combine_chunks().equals(right[name].combine_chunks())
        ]
    return different


def stray_files(output: Place) -> list[str]:
    """Files of a finished output that do not belong there."""
    names = set(files(output))
    shards = {Path(name).stem for name in names if name.startswith("plan/")}
    expected = {"job.json", "job.toml", "plan.json", "classes.parquet"}
    expected |= {f"plan/{s}.json" for s in shards} | {f"commits/{s}.json" for s in shards}
    expected |= {f"{table}/{s}.parquet" for s in shards for table in ORDER}
    return sorted(name for name in names - expected if not name.startswith("runs/"))


def outcomes(output: Place) -> int:
    """The number of units with an outcome: a file of their own, or a commit of their shard."""
    names = files(output)
    commits = [name for name in names if name.startswith("commits/")]
    done = {Path(name).stem for name in commits}
    units = [name for name in names if name.startswith("work/") and name.endswith(".parquet")]
    waiting = [name for name in units if Path(name).parent.name not in done]
    return sum(json.loads(read(output, name))["units"] for name in commits) + len(waiting)


def receipts(output: Place) -> list[dict[str, Any]]:
    """The receipts of every run that could write one at its end, oldest first."""
    names = [name for name in files(output) if name.startswith("runs/") and name.endswith(".json")]
    return [json.loads(read(output, name)) for name in names]


def recomputed_by_last(output: Place, before: int) -> int:
    """The number of units that the last run computed although `before` were done at its start."""
    last = receipts(output)[-1]
    return int(last["units_computed"] - (last["units"] - before))

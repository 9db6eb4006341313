"""Published tables read by DuckDB, pandas and Polars through a glob, without any of our code."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely

from jobs.tables_reference import ENTRIES
from pipeline.api import run
from pipeline.output.column import columns, without_metadata
from pipeline.output.layout import Output
from pipeline.output.query import query
from pipeline.output.replacement import delete_replaced_rows
from pipeline.output.schemas import SHARD_TABLES, SQL_TABLES
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene
from tests.support.outputs import rows


@pytest.fixture(scope="module")
def output(small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of two shards; the scene of the second was added later."""
    folder = tmp_path_factory.mktemp("archive")
    out = folder / "out"
    for n in range(2):
        write_scene(folder / "in" / f"{n}.tif", 700 + n, 600, seed=n)
        settings = Settings(window=128, stride=96)
        run([str(folder / "in")], small_checkpoint, str(out), settings, Execution(runner="local"))
    assert len(list((out / "masks").iterdir())) == 2
    return out


def test_every_reader_computes_the_same_areas(output: Path) -> None:
    sql = "SELECT class_name, sum(area_m2) AS m2 FROM {} GROUP BY class_name"
    by_swath = {
        r["class_name"]: r["m2"] for r in query(str(output), sql.format("statistics")).to_pylist()
    }
    glob = f"{output}/statistics/*.parquet"
    by_duckdb = dict(duckdb.sql(sql.format(f"'{glob}'")).fetchall())
    frames = [pd.read_parquet(file) for file in sorted(output.glob("statistics/*.parquet"))]
    by_pandas = pd.concat(frames).groupby("class_name")["area_m2"].sum().to_dict()
    by_polars = dict(
        pl.scan_parquet(glob).group_by("class_name").agg(pl.sum("area_m2")).collect().iter_rows()
    )
    assert len(by_swath) > 1
    assert sum(by_swath.values()) == pytest.approx((700 + 701) * 600 * 100, rel=2e-3)
    for other in (by_duckdb, by_pandas, by_polars):
        assert other == pytest.approx(by_swath, rel=1e-12)


def test_polars_and_numpy_read_the_masks(output: Path) -> None:
    frame = pl.read_parquet(f"{output}/masks/*.parquet").sort("scene_id", "tile_row", "tile_col")
    assert frame["scene_id"].unique().sort().to_list() == ["0.tif", "1.tif"]
    for row in frame.iter_rows(named=True):
        mask = np.frombuffer(row["mask"], row["mask_dtype"]).reshape(row["height"], row["width"])
        assert (mask != row["nodata"]).sum() == row["valid_pixels"]


def test_tables_with_a_geometry_are_geoparquet_with_a_covering(output: Path) -> None:
    for table in ("masks", "scenes"):
        for file in (output / table).iterdir():
            geo = json.loads(pq.read_metadata(file).metadata[b"geo"])
            assert geo["version"] == "1.1.0"
            column = geo["columns"][geo["primary_column"]]
            assert column["encoding"] == "WKB"
            assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
            for row in pq.read_table(file, columns=["geometry", "bbox"]).to_pylist():
                bounds = shapely.from_wkb(row["geometry"]).bounds
                assert bounds == pytest.approx(tuple(row["bbox"].values()), abs=1e-12)


def test_every_file_describes_its_columns(output: Path) -> None:
    files = [output / "classes.parquet", *output.glob("*/*.parquet")]
    assert len(files) == 9
    for file in files:
        table = "classes" if file.stem == "classes" else file.parent.name
        stored = list(columns(pq.read_schema(file)))
        assert stored == list(columns(SQL_TABLES[table]))
        assert all(column.description for column in stored)


def test_only_columns_described_as_nullable_hold_nulls(output: Path) -> None:
    for table, schema in SHARD_TABLES.items():
        for file in (output / table).iterdir():
            rows = pq.read_table(file)
            nulls = {name for name in rows.column_names if rows[name].null_count}
            assert nulls <= {column.name for column in columns(schema) if column.null}


@pytest.mark.parametrize("table", SQL_TABLES)
def test_sql_shows_the_described_columns(output: Path, table: str) -> None:
    assert query(str(output), f"FROM {table} LIMIT 0").schema == SQL_TABLES[table]


@pytest.mark.parametrize("table", ENTRIES)
def test_the_example_query_of_each_table_runs(output: Path, table: str) -> None:
    result = query(str(output), ENTRIES[table].sql)
    assert (result.num_rows > 0) == (table != "quarantine")


@pytest.fixture
def partly_old(output: Path, tmp_path: Path) -> Path:
    """The output, with the files of its first shard as written before columns had descriptions."""
    shutil.copytree(output, tmp_path / "out")
    for file in (tmp_path / "out").glob("*/000000.parquet"):
        table = pq.read_table(file)
        geo = {key: text for key, text in (table.schema.metadata or {}).items() if key == b"geo"}
        plain = without_metadata(table.schema).with_metadata(geo or None)
        pq.write_table(table.cast(plain), file, row_group_size=256)
        assert not any(column.description for column in columns(pq.read_schema(file)))
    return tmp_path / "out"


def test_files_with_and_without_descriptions_are_one_table(output: Path, partly_old: Path) -> None:
    for table in SHARD_TABLES:
        glob, sql = f"{partly_old}/{table}/*.parquet", f"FROM {table} ORDER BY ALL"
        expected = query(str(output), sql)
        assert query(str(partly_old), sql).equals(expected)
        assert pq.read_table(partly_old / table).num_rows == expected.num_rows
        assert len(pd.read_parquet(partly_old / table)) == expected.num_rows
        assert pl.read_parquet(glob).height == expected.num_rows
        assert duckdb.sql(f"SELECT count(*) FROM '{glob}'").fetchall() == [(expected.num_rows,)]


def test_rows_in_files_without_descriptions_are_replaced(partly_old: Path) -> None:
    """A retry deletes a scene's rows from the old file; the others stay, bit for bit."""
    out = Output.open(str(partly_old))
    shards = list(out.shards())
    (scene,) = shards[0].scenes
    before = rows(partly_old, "masks")
    retry = replace(shards[1], shard_id="000002", retries={scene.scene_id: ("000000",)})
    delete_replaced_rows(out, replace(retry, scenes=shards[0].scenes))
    remaining = rows(partly_old, "masks")
    assert remaining.equals(before.filter(pc.field("scene_id") != scene.scene_id))
    assert 0 < remaining.num_rows < before.num_rows
    schema = pq.read_schema(partly_old / "masks" / "000000.parquet")
    assert list(columns(schema)) == list(columns(SHARD_TABLES["masks"]))


def test_masks_are_compressed_without_statistics_or_dictionary_in_small_row_groups(
    output: Path,
) -> None:
    for file in (output / "masks").iterdir():
        metadata = pq.read_metadata(file)
        group = metadata.row_group(0)
        mask = group.column(group.num_columns - 1)
        assert mask.path_in_schema == "mask"
        assert mask.compression == "ZSTD"
        assert not mask.is_stats_set
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(mask.encodings)
        assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= 256

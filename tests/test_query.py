"""SQL over published tables: what it answers, and that it can do nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import SwathError, UsageError
from pipeline.job import Job
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, table_path
from pipeline.output.parquet import write_table
from pipeline.output.query import TABLES, open_output, query, write_parquet
from pipeline.output.schemas import SHARD_TABLES
from pipeline.output.tables import table_of
from pipeline.settings import ROW_GROUP_ROWS, Settings

NAMES = ("ocean", "land")


def mask_row(scene_id: str, tile_col: int, pixels: tuple[int, int]) -> dict[str, Any]:
    west = float(tile_col)
    return {
        "scene_id": scene_id,
        "tile_col": tile_col,
        "tile_row": 0,
        "valid_pixels": sum(pixels),
        "mean_confidence": 0.5,
        "class_pixels": [
            {"class_id": k, "pixels": n, "area_m2": 100.0 * n, "mean_confidence": 0.5}
            for k, n in enumerate(pixels)
        ],
        "mask_dtype": "uint8",
        "bbox": {"xmin": west, "ymin": 0.0, "xmax": west + 1, "ymax": 1.0},
        "mask": bytes([0, 1, 255]),
    }


def put(output: Output, table: str, shard: str, rows: list[dict[str, Any]]) -> None:
    with output.store.writing(table_path(table, shard)) as file:
        write_table(file, table_of(rows, SHARD_TABLES[table]))


def publish(output: Output, shard: str, masks: list[dict[str, Any]], commit: bool = True) -> None:
    put(output, "masks", shard, masks)
    scenes = sorted({row["scene_id"] for row in masks})
    put(output, "scenes", shard, [{"scene_id": s, "status": "done"} for s in scenes])
    rows = [{"scene_id": s, "class_id": 0, "area_m2": math.nan} for s in scenes]
    put(output, "statistics", shard, rows)
    put(output, "quarantine", shard, [])
    if commit:
        output.commit(Commit(shard, units=1, pixels=0, failures=(), pixels_without_area={}))


def create(path: Path) -> Output:
    job = Job(Settings(batch=4), "c", "0" * 64, "cpu", NAMES, (None, "00ff00"))
    return Output.create(str(path), job)


@pytest.fixture
def out(tmp_path: Path) -> str:
    """Two published shards, and one whose masks are there but not committed."""
    output = create(tmp_path / "out")
    publish(output, "0", [mask_row("a.tif", 0, (10, 20)), mask_row("a.tif", 1, (5, 0))])
    publish(output, "1", [mask_row("b.tif", 7, (1, 2))])
    publish(output, "2", [mask_row("c.tif", 9, (1000, 0))], commit=False)
    return str(tmp_path / "out")


def rows(out: str, sql: str) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = query(out, sql).to_pylist()
    return result


def test_tables_hold_committed_rows_only(out: str) -> None:
    assert rows(out, "SELECT scene_id FROM scenes ORDER BY 1") == [
        {"scene_id": "a.tif"},
        {"scene_id": "b.tif"},
    ]
    assert rows(out, "SELECT count(*) AS n FROM masks") == [{"n": 3}]
    names = [row["name"] for row in rows(out, "SELECT name FROM classes ORDER BY class_id")]
    assert names == list(NAMES)
    assert rows(out, "FROM masks WHERE tile_col = 1")[0]["mask"] == bytes([0, 1, 255])


def test_tile_statistics_is_the_long_form_of_masks(out: str) -> None:
    assert query(out, "FROM tile_statistics").column_names == [
        "scene_id",
        "tile_col",
        "tile_row",
        "class_id",
        "class_name",
        "pixels",
        "area_m2",
        "mean_confidence",
        "bbox",
    ]
    sql = """SELECT class_name, sum(area_m2) AS m2 FROM tile_statistics
             WHERE bbox.xmin <= 6 AND bbox.xmax >= 0 GROUP BY 1 ORDER BY 1"""
    assert rows(out, sql) == [
        {"class_name": "land", "m2": 2000.0},
        {"class_name": "ocean", "m2": 1500.0},
    ]


def test_tables_without_rows_keep_their_columns(out: str) -> None:
    assert query(out, "FROM quarantine").schema == SHARD_TABLES["quarantine"]
    assert query(out, "FROM quarantine").num_rows == 0


def test_filters_distinguish_nan_from_null(out: str) -> None:
    """Arrow and SQL disagree about NaN > 0; filters are pushed into Arrow. SQL's answer holds."""
    assert len(rows(out, "FROM statistics WHERE area_m2 > 0")) == 2
    assert len(rows(out, "FROM statistics WHERE isnan(area_m2)")) == 2
    assert rows(out, "FROM statistics WHERE fraction > 0") == []
    assert len(rows(out, "FROM statistics WHERE fraction IS NULL")) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "WITH x AS (SELECT 1 AS one) SELECT * FROM x;",
        "DESCRIBE masks",
        "SUMMARIZE scenes",
        "SHOW TABLES",
        "EXPLAIN SELECT * FROM masks",
        "EXPLAIN ANALYZE FROM masks",
        "VALUES (1)",
        "PIVOT tile_statistics ON class_name USING sum(pixels) GROUP BY scene_id",
        "PIVOT tile_statistics ON class_name IN ('land') USING sum(pixels) GROUP BY scene_id",
        "-- a comment\nFROM classes",
    ],
)
def test_every_form_of_read_only_statement_is_answered(out: str, sql: str) -> None:
    assert query(out, sql).num_rows >= 1


def test_column_names_are_unique(out: str) -> None:
    assert query(out, "SELECT 1 AS a, 2 AS a, 3 AS a_1").column_names == ["a", "a_1", "a_1_1"]


FORBIDDEN = [
    "COPY (SELECT 1) TO '{masks}'",
    "COPY (SELECT 1) TO '{masks}' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{new}' (USE_TMP_FILE false)",
    "WITH x AS (COPY (SELECT 1) TO '{masks}' (USE_TMP_FILE false)) FROM x",
    "WITH x AS (COPY (SELECT 1) TO '{new}' (USE_TMP_FILE false)) FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{masks}' (USE_TMP_FILE false)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{new}'",
    "COPY (PIVOT masks ON tile_col USING count(*)) TO '{new}' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "EXPORT DATABASE '{new}'",
    "ATTACH '{new}' AS other",
    "FROM query('WITH x AS (COPY (SELECT 1) TO ''{new}'') FROM x')",
    "FROM read_csv('{secret}')",
    "FROM read_text('{secret}')",
    "FROM read_blob('{secret}')",
    "FROM read_json('{secret}')",
    "FROM sniff_csv('{secret}')",
    "FROM '{secret}'",
    "FROM read_parquet('{masks}')",
    "FROM read_parquet('{uncommitted}')",
    "FROM parquet_metadata('{masks}')",
    "FROM glob('/*')",
    "FROM read_parquet('https://example.com/x.parquet')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD json",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "SET lock_configuration = false",
    "PRAGMA profile_output = '{new}'",
    "CALL enable_logging(storage = 'file', storage_path = '{new}')",
    "CREATE TABLE x AS SELECT 1",
    "CREATE OR REPLACE VIEW masks AS SELECT 1",
    "INSERT INTO masks (scene_id) VALUES ('x')",
    "WITH x AS (INSERT INTO masks (scene_id) VALUES ('x') RETURNING *) FROM x",
    "DELETE FROM masks",
    "DROP VIEW tile_statistics",
    "CREATE SECRET s (TYPE s3)",
    "FROM masks; DROP VIEW masks",
    "IMPORT DATABASE '{new}'",
    "CHECKPOINT",
    "FROM sql",
    "FROM connection",
]


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("attack", FORBIDDEN)
def test_sql_can_neither_write_nor_read_anything_but_the_tables(
    out: str, tmp_path: Path, attack: str
) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    before = fingerprint(tmp_path)
    sql = attack.format(
        masks=f"{out}/masks/0.parquet",
        uncommitted=f"{out}/masks/2.parquet",
        new=tmp_path / "new",
        secret=secret,
    )
    with pytest.raises(SwathError) as refused:
        query(out, sql)
    assert "\n" not in str(refused.value)
    assert fingerprint(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_sql_cannot_read_environment_variables(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATH_TEST_SECRET", "s3cret")
    with pytest.raises(UsageError):
        query(out, "SELECT getenv('SWATH_TEST_SECRET')")
    assert "s3cret" not in str(rows(out, "FROM duckdb_settings()"))


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT * FROM mask", ", ".join(TABLES)),
        ("SELECT nope FROM scenes", "nope"),
        ("SELEC 1", "syntax error"),
        ("SELECT scene_id, stage, window FROM quarantine", 'write the column "window" in double'),
        ("SELECT CAST('x' AS INT)", "'x'"),
        ("", "the SQL is empty: ask something"),
        (" -- nothing", "the SQL is empty: ask something"),
        ("SELECT 1; SELECT 2", "one SQL statement"),
        ("DELETE FROM masks", "only questions"),
        ("FROM read_text('/etc/hostname')", "nothing but the tables"),
    ],
)
def test_invalid_sql_is_a_usage_error_in_one_line(out: str, sql: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        query(out, sql)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_error_recommends_no_extension(out: str) -> None:
    with pytest.raises(UsageError, match="has no extensions; open OUT's Parquet files") as error:
        query(out, "SELECT ST_Area(geometry) FROM masks")
    assert "INSTALL" not in str(error.value)


def test_quoting_the_column_window_is_suggested_only_if_it_is_at_fault(out: str) -> None:
    assert query(out, 'SELECT stage, "window" FROM quarantine').column_names == ["stage", "window"]
    for sql in ('SELEC "window"', "SELEC windows"):
        with pytest.raises(UsageError) as error:
            query(out, sql)
        assert "double quotes" not in str(error.value)


def test_a_path_that_is_not_an_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, message in (
        (tmp_path, "not an output of Swath"),
        (tmp_path / "missing", "no such fol"),
    ):
        with pytest.raises(UsageError, match=message):
            query(str(path), "SELECT 1")


def test_an_output_without_a_commit_is_refused(tmp_path: Path) -> None:
    publish(create(tmp_path), "0", [mask_row("a", 0, (1, 1))], commit=False)
    with pytest.raises(UsageError, match="nothing is published yet"):
        query(str(tmp_path), "FROM masks")


def test_row_groups_that_cannot_match_are_not_read(tmp_path: Path) -> None:
    """All row groups but one are destroyed: only a query that needs them may notice."""
    output = create(tmp_path)
    scenes = [f"s{k}" for k in range(4)]
    masks = [mask_row(s, k * 256 + i, (1, i)) for k, s in enumerate(scenes) for i in range(256)]
    assert ROW_GROUP_ROWS == 256
    publish(output, "0", masks)
    path = tmp_path / "masks" / "0.parquet"
    data = bytearray(path.read_bytes())
    footer = pq.ParquetFile(path).metadata
    for group in (1, 2, 3):
        for column in range(footer.num_columns):
            chunk = footer.row_group(group).column(column)
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            data[start : start + chunk.total_compressed_size] = (
                b"\xee" * chunk.total_compressed_size
            )
    path.write_bytes(data)

    for condition in ("scene_id = 's0'", "bbox.xmin < 256 AND bbox.xmax > 0", "tile_col < 256"):
        sql = f"SELECT sum(pixels) AS n FROM tile_statistics WHERE {condition}"
        assert rows(str(tmp_path), sql) == [{"n": 256 + sum(range(256))}]
    with pytest.raises(SwathError):
        query(str(tmp_path), "SELECT sum(pixels) FROM tile_statistics")


def test_a_parquet_result_reads_back(out: str) -> None:
    file = io.BytesIO()
    result = query(out, "SELECT scene_id, sum(pixels) AS pixels, any_value(bbox) AS bbox"
                        " FROM tile_statistics GROUP BY 1 ORDER BY 1")  # fmt: skip
    write_parquet(result, file)
    assert pq.read_table(io.BytesIO(file.getvalue())).equals(result)
    assert b"geo" not in (pq.read_schema(io.BytesIO(file.getvalue())).metadata or {})
    with pytest.raises(UsageError, match="CAST"):
        write_parquet(query(out, "SELECT INTERVAL 1 MONTH AS i"), io.BytesIO())


@pytest.mark.parametrize("has_bbox", [False, True])
def test_a_parquet_result_with_geometry_is_geoparquet(out: str, has_bbox: bool) -> None:
    columns = "scene_id, geometry, bbox" if has_bbox else "scene_id, geometry"
    file = io.BytesIO()
    write_parquet(query(out, f"SELECT {columns} FROM masks"), file)
    geo = json.loads(pq.read_schema(io.BytesIO(file.getvalue())).metadata[b"geo"])
    published = json.loads(pq.read_schema(f"{out}/masks/0.parquet").metadata[b"geo"])
    assert "covering" in published["columns"]["geometry"]
    if not has_bbox:
        del published["columns"]["geometry"]["covering"]
    assert geo == published


def test_sums_of_integers_are_integers(out: str) -> None:
    """DuckDB sums into 128 bits, which become decimals in Arrow and objects in pandas."""
    sums = query(out, "SELECT sum(pixels) AS n FROM tile_statistics")
    assert sums.schema.field("n").type == pa.int64()
    assert sums.to_pylist() == [{"n": 38}]
    large = query(out, "SELECT sum(9e18::BIGINT) AS n FROM range(3)")
    assert large.to_pylist() == [{"n": 27 * 10**18}]


def test_open_output_answers_queries_from_python(out: str) -> None:
    output = open_output(out)
    assert output.job.class_names == NAMES
    assert output.query("SELECT count(*) AS n FROM masks").to_pylist() == [{"n": 3}]


def test_a_deleted_table_is_named(out: str) -> None:
    table = next(Path(out, "masks").glob("*.parquet"))
    table.unlink()
    with pytest.raises(UsageError, match=rf"{table}: this published table is gone; put it back"):
        query(out, "SELECT * FROM masks")

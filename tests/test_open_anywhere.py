"""The tables in other hands: DuckDB, pandas and Polars on a glob, without a line of ours."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import shapely

from pipeline.api import run
from pipeline.output.query import query
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene


@pytest.fixture(scope="module")
def output(small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards: the second one's scene was added later."""
    folder = tmp_path_factory.mktemp("archive")
    out = folder / "out"
    for n in range(2):
        write_scene(folder / "in" / f"{n}.tif", 700 + n, 600, seed=n)
        settings = Settings(window=128, stride=96)
        run([str(folder / "in")], small_checkpoint, str(out), settings, Execution(runner="local"))
    assert len(list((out / "masks").iterdir())) == 2
    return out


def test_the_same_areas_by_every_reader(output: Path) -> None:
    sql = "SELECT class_name, sum(area_m2) AS m2 FROM {} GROUP BY class_name"
    ours = {
        r["class_name"]: r["m2"] for r in query(str(output), sql.format("statistics")).to_pylist()
    }
    glob = f"{output}/statistics/*.parquet"
    by_duckdb = dict(duckdb.sql(sql.format(f"'{glob}'")).fetchall())
    frames = [pd.read_parquet(file) for file in sorted(output.glob("statistics/*.parquet"))]
    by_pandas = pd.concat(frames).groupby("class_name")["area_m2"].sum().to_dict()
    by_polars = dict(
        pl.scan_parquet(glob).group_by("class_name").agg(pl.sum("area_m2")).collect().iter_rows()
    )
    assert len(ours) > 1
    assert sum(ours.values()) == pytest.approx((700 + 701) * 600 * 100, rel=2e-3)
    for other in (by_duckdb, by_pandas, by_polars):
        assert other == pytest.approx(ours, rel=1e-12)


def test_masks_by_polars_and_numpy(output: Path) -> None:
    frame = pl.read_parquet(f"{output}/masks/*.parquet").sort("scene_id", "tile_row", "tile_col")
    assert frame["scene_id"].unique().sort().to_list() == ["0.tif", "1.tif"]
    for row in frame.iter_rows(named=True):
        mask = np.frombuffer(row["mask"], row["mask_dtype"]).reshape(row["height"], row["width"])
        assert (mask != row["nodata"]).sum() == row["valid_pixels"]


def test_geoparquet_metadata_and_covering(output: Path) -> None:
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


def test_how_masks_are_stored(output: Path) -> None:
    for file in (output / "masks").iterdir():
        metadata = pq.read_metadata(file)
        group = metadata.row_group(0)
        mask = group.column(group.num_columns - 1)
        assert mask.path_in_schema == "mask"
        assert mask.compression == "ZSTD"
        assert not mask.is_stats_set
        assert not {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(mask.encodings)
        assert max(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)) <= 256

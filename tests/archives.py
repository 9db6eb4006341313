"""Archives that tests write, and the rows that runs leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.transform import from_origin

ORDER = {
    "masks": ["scene_id", "tile_row", "tile_col"],
    "statistics": ["scene_id", "class_id"],
    "scenes": ["scene_id"],
    "quarantine": ["scene_id", "window"],
}


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Blocky random colours, uint8 (3, height, width)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, height // 12 + 1, width // 12 + 1), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 12, 12), np.uint8))[:, :height, :width].copy()


def write_scene(
    path: Path,
    width: int,
    height: int,
    *,
    seed: int = 0,
    values: np.ndarray | None = None,
    nodata: float | None = None,
    tiled: bool = True,
) -> Path:
    """A GeoTIFF in UTM 33N with 10 m pixels."""
    values = picture(width, height, seed) if values is None else values
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=len(values),
        dtype=values.dtype,
        crs="EPSG:32633",
        transform=from_origin(500_000, 5_000_000, 10, 10),
        nodata=nodata,
        tiled=tiled,
        blockxsize=256 if tiled else width,
        blockysize=256 if tiled else 16,
        compress="deflate",
    ) as file:
        file.write(values)
    return path


def rows(output: Path, table: str) -> pa.Table:
    """Every row of a published table, in one order."""
    files = sorted((output / table).glob("*.parquet"))
    whole = pa.concat_tables([pq.read_table(file) for file in files])
    return whole.sort_by([(name, "ascending") for name in ORDER[table]])


def assert_same_rows(one: Path, other: Path, *tables: str) -> None:
    """Bit for bit, NaN included."""
    for table in tables or ("masks", "statistics", "scenes", "quarantine"):
        left, right = rows(one, table), rows(other, table)
        assert left.num_rows == right.num_rows, table
        for name in left.column_names:
            assert left[name].combine_chunks().equals(right[name].combine_chunks()), (table, name)


def mask_of(output: Path, scene_id: str, width: int, height: int) -> np.ndarray:
    """A scene's class ids put together from its mask tiles; nodata where there is no tile."""
    tiles = [row for row in rows(output, "masks").to_pylist() if row["scene_id"] == scene_id]
    mask = np.full((height, width), tiles[0]["nodata"], tiles[0]["mask_dtype"])
    for tile in tiles:
        shape = (tile["height"], tile["width"])
        here = np.s_[tile["row_off"] :, tile["col_off"] :]
        mask[here][: shape[0], : shape[1]] = np.frombuffer(
            tile["mask"], tile["mask_dtype"]
        ).reshape(shape)
    return mask


def stray_files(output: Path) -> list[str]:
    """Files of a finished output that have no business there."""
    shards = {file.stem for file in (output / "plan").iterdir()}
    expected = {"job.json", "classes.parquet"}
    expected |= {f"plan/{s}.json" for s in shards} | {f"commits/{s}.json" for s in shards}
    expected |= {f"{table}/{s}.parquet" for s in shards for table in ORDER}
    files = {str(file.relative_to(output)) for file in output.rglob("*") if file.is_file()}
    return sorted(name for name in files - expected if not name.startswith("runs/"))

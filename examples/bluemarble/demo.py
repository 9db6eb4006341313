"""The demo: the Blue Marble as an archive, segmented by `swath run` and queried in SQL.

    python -m examples.bluemarble.demo [--work FOLDER]

Uses the command and the tables as anybody would, and no internals of the network. A second call
finds everything done and prints the same figures.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from PIL import Image

from examples.bluemarble import bluemarble as bm

HERE = Path(__file__).parent
SWATH = Path(sys.executable).with_name("swath")
CLASS_SQL = "SELECT class_name, sum(area_m2) / 1e6 AS km2 FROM statistics GROUP BY class_name"
OVERLAY_WIDTH_PX = 1800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=HERE / "work")
    work = shown(parser.parse_args().work)
    archive, tables, checkpoint = work / "archive", work / "tables", shown(HERE / "checkpoint")
    files = bm.write_archive(archive)
    if tables.exists() and not readable(tables):  # made by an earlier version of Swath
        shutil.rmtree(tables)
    print(f"The archive: {len(files)} GeoTIFFs of 900 x 900 px in {archive}\n")
    swath(["run", archive, "--checkpoint", checkpoint, "--output", tables])
    labels = bm.picture_labels(bm.read_mask())
    print_class_areas(tables, labels)
    print_baikal(tables, labels)
    overlay = work / "overlay.png"
    write_overlay(overlay, read_classes(tables, "true"))
    print_what_next(tables, checkpoint, overlay)


def readable(tables: Path) -> bool:
    """Whether this version of Swath can read the tables."""
    return not subprocess.run(
        [SWATH, "status", tables], capture_output=True, check=False
    ).returncode


def shown(path: Path) -> Path:
    """The path relative to the current folder if it is below it: shorter to read and to copy."""
    folder = Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def swath(arguments: list[Any], **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the command. If its exit code is not 0, the demo exits with it."""
    words = [str(word) for word in arguments]
    print("$ " + shlex.join([str(shown(SWATH)), *words]), flush=True)
    done = subprocess.run([SWATH, *words], text=True, check=False, **how)
    if done.returncode:
        sys.exit(done.returncode)
    return done


def print_class_areas(tables: Path, labels: bm.Uint8s) -> None:
    """Ask for the area of each class in SQL, and print it beside the mask's."""
    print("\nThe area of each class:")
    query = ["query", tables, CLASS_SQL, "--format", "json"]
    answer = swath(query, stdout=subprocess.PIPE).stdout
    segmented_km2 = {row["class_name"]: row["km2"] for row in json.loads(answer)}
    print(f"\n  {'km2':14}{'segmented':>15}{'the mask':>15}")
    for name, true_km2 in zip(bm.CLASS_NAMES, bm.class_areas_km2(labels), strict=True):
        print(f"  {name:14}{segmented_km2.get(name, 0):15,.0f}{true_km2:15,.0f}")


def print_baikal(tables: Path, labels: bm.Uint8s) -> None:
    """Print the lake's area: the mask tiles that touch its box, by SQL, then the pixels inside."""
    box = bm.BAIKAL
    touching = (
        f"bbox.xmin < {box.east} AND bbox.xmax > {box.west}"
        f" AND bbox.ymin < {box.north} AND bbox.ymax > {box.south}"
    )
    classes = read_classes(tables, touching)
    rows, cols = box.slices()
    row_km2 = bm.row_areas_km2(bm.WIDTH, bm.HEIGHT)[rows]

    def water_km2(grid: bm.Uint8s) -> float:
        return float(((grid[rows, cols] == bm.INLAND_WATER) * row_km2).sum())

    ids, areas_km2 = bm.lakes(labels)
    lake_km2 = areas_km2[bm.lake_at(*bm.BAIKAL_CENTER, ids)]
    print(f"\nLake Baikal, inland water in {box.west}-{box.east} E, {box.south}-{box.north} N:")
    print(f"\n  segmented {water_km2(classes):,.0f} km2; the mask {water_km2(labels):,.0f} km2,")
    print(f"  of which {lake_km2:,.0f} km2 are the lake and the rest are its small neighbors")


def read_classes(tables: Path, where: str) -> bm.Uint8s:
    """Class ids (2700, 5400) of the mask tiles that SQL selects, 255 elsewhere.

    Plain DuckDB on the Parquet files: no reader of Swath's is needed.
    """
    sql = f"SELECT transform, width, height, mask FROM '{tables}/masks/*.parquet' WHERE {where}"
    world = np.full((bm.HEIGHT, bm.WIDTH), 255, np.uint8)
    for transform, width, height, mask in duckdb.execute(sql).fetchall():
        col = round((transform[2] + 180) * bm.PER_DEGREE)
        row = round((90 - transform[5]) * bm.PER_DEGREE)
        tile = np.frombuffer(mask, np.uint8).reshape(height, width)
        world[row : row + height, col : col + width] = tile
    return world


def write_overlay(path: Path, classes: bm.Uint8s) -> None:
    """Write the picture, half covered with the colors of the classes."""
    colors = np.array([tuple(bytes.fromhex(color)) for color in bm.CLASS_COLORS], np.uint8)
    blended = bm.read_picture() // 2 + colors[classes] // 2
    size = (OVERLAY_WIDTH_PX, OVERLAY_WIDTH_PX * bm.HEIGHT // bm.WIDTH)
    Image.fromarray(blended).resize(size, Image.Resampling.BOX).save(path)


def print_what_next(tables: Path, checkpoint: Path, overlay: Path) -> None:
    sql = "SELECT * FROM tile_statistics WHERE class_id = 2 ORDER BY area_m2 DESC LIMIT 5"
    print(f"\nThe tables: {tables}/masks/*.parquet and its neighbors; any Parquet reader will do.")
    print(f"The picture: {overlay}\n\nTry next, where the lakes are:\n")
    print(f'  {shown(SWATH)} query {tables} "{sql}"')
    print("\nYour own image (this checkpoint knows Blue Marble's colors only; bring yours):\n")
    print(f"  {shown(SWATH)} run YOUR_IMAGE.tif --checkpoint {checkpoint} --output YOUR_TABLES")


if __name__ == "__main__":
    main()

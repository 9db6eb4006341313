"""The mask tiles of a shard, from its unit files to its table `masks`.

Every unit file is read once, and masks wait on local disk for their turn: however units and the
order of the table relate, memory holds one unit and one row group of masks. Knows neither scenes
nor commits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from pipeline.output.hilbert import hilbert
from pipeline.output.layout import Output, table_path, unit_path
from pipeline.output.outcomes import DamagedUnitError, read_unit_file
from pipeline.output.parquet import Writer, read_unit
from pipeline.output.schemas import MASKS
from pipeline.output.shard import Shard
from pipeline.output.spool import Spool, Spooled
from pipeline.settings import ROW_GROUP_ROWS
from pipeline.unit import UnitOutcome

_FIELDS = [
    *("scene_id", "tile_row", "tile_col", "valid_pixels"),
    *("class_pixels", "class_confidence", "bbox"),
]


@dataclass(frozen=True, slots=True)
class Tile:
    """A row of a unit file on its way to `masks`, with what its scene's rows are summed from."""

    scene_id: str
    tile_row: int
    tile_col: int
    valid_pixels: int
    class_pixels: list[dict[str, Any]]
    """The same as in `masks`."""
    class_confidence: list[dict[str, Any]]
    """The integer sums behind the mean confidence of the same classes, as in the unit's file."""
    bbox: dict[str, float] | None
    unit_rows: pa.Table
    """The rows of the unit's file, without their masks."""
    row: int
    """The tile's row in these."""
    mask: Spooled


@dataclass(frozen=True)
class ShardUnits:
    """The contents of a shard's unit files."""

    outcomes: list[UnitOutcome]
    tiles: list[Tile]
    """Every mask tile of the shard's scenes, in the order of the table."""
    damages: dict[str, str]
    """unit_id -> what is wrong with the unit's file, for those that are damaged or gone."""


def read_units(output: Output, shard: Shard, spool: Spool) -> ShardUnits:
    """Read each of the shard's unit files once; puts the masks into the spool."""
    outcomes: list[UnitOutcome] = []
    tiles: list[Tile] = []
    damages: dict[str, str] = {}
    for unit in shard.units:
        try:
            table, outcome = read_unit_file(output, unit_path(unit), _table_and_outcome)
        except (DamagedUnitError, FileNotFoundError) as error:
            gone = isinstance(error, FileNotFoundError)
            damages[unit.unit_id] = "the file is gone" if gone else str(error)
            continue
        outcomes.append(outcome)
        masks, unit_rows = table["mask"], table.drop_columns(["mask"])
        for row, fields in enumerate(unit_rows.select(_FIELDS).to_pylist()):
            if fields["scene_id"] in shard.scene_ids:  # else a later shard has planned it again
                mask = spool.put(masks[row].as_buffer())
                tiles.append(Tile(**fields, unit_rows=unit_rows, row=row, mask=mask))
    return ShardUnits(outcomes, _in_order(tiles), damages)


def _table_and_outcome(file: BinaryIO) -> tuple[pa.Table, UnitOutcome]:
    table, outcome = read_unit(file)
    return table, UnitOutcome.from_json(outcome)


def _in_order(tiles: list[Tile]) -> list[Tile]:
    centres = np.array([_centre(tile.bbox) for tile in tiles]).reshape(-1, 2)
    positions = hilbert(centres).tolist()
    keys = [
        (position, tile.scene_id, tile.tile_row, tile.tile_col)
        for position, tile in zip(positions, tiles, strict=True)
    ]
    return [tiles[index] for index in sorted(range(len(tiles)), key=keys.__getitem__)]


def _centre(bbox: dict[str, float] | None) -> tuple[float, float]:
    if bbox is None:
        return (math.nan, math.nan)
    return ((bbox["xmin"] + bbox["xmax"]) / 2, (bbox["ymin"] + bbox["ymax"]) / 2)


def write_masks(output: Output, shard_id: str, tiles: Sequence[Tile], spool: Spool) -> None:
    """Write the shard's table `masks`, row group by row group."""
    with output.store.writing(table_path("masks", shard_id)) as file:
        writer = Writer(file, MASKS)
        if not tiles:
            writer.write(MASKS.empty_table())
        for start in range(0, len(tiles), ROW_GROUP_ROWS):
            writer.write(_row_group(tiles[start : start + ROW_GROUP_ROWS], spool))
        writer.close()


def _row_group(tiles: Sequence[Tile], spool: Spool) -> pa.Table:
    rows = pa.concat_tables([tile.unit_rows.slice(tile.row, 1) for tile in tiles])
    masks = pa.array([spool.get(tile.mask) for tile in tiles], MASKS.field("mask").type)
    return rows.append_column(MASKS.field("mask"), masks).select(MASKS.names).combine_chunks()

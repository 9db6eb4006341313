"""A scene's class ids, read back from the published tables window by window.

`SceneMask` is one scene, `scene_masks` are all of them. A window reads the row groups that it
needs, never a whole table, from disk and from an object store alike. Knows the tables `scenes`,
`masks` and `quarantine`, not how their rows came about.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import UnfinishedError, UsageError
from pipeline.output.layout import Output
from pipeline.output.mask_table import MaskTable, damage_as_usage_error
from pipeline.scene import Affine6, Rect
from pipeline.settings import MASK_TILE_PX
from pipeline.storage.store import THREADS
from pipeline.unit import mask_dtype, nodata_value

STRIP_PX = 8 * MASK_TILE_PX
"""Rows of a strip: half the edge of the square of a large scene that a row group holds."""

_COLUMNS = ["scene_id", "width", "height", "crs", "transform", "status"]


@dataclass(frozen=True)
class SceneMask:
    """The mask of a published scene, as a file open for reading:

        with SceneMask.open(output, "2026/a.tif") as mask:
            ids_HW = mask.read(Rect(0, 0, 1000, 1000))

    For one thread at a time. On disk it shows the table as it was when it was opened. A read holds
    its result and the masks of one row group: about 64 MB decompressed, as much again if they do
    not compress, twice that above 255 classes. An open table on a store caches up to 16 MB, or as
    many compressed bytes as the last row group has if these are more.
    """

    scene_id: str
    width: int
    """Columns of pixels."""
    height: int
    """Rows of pixels."""
    crs: str | None
    """For CRS.from_user_input; None: the scene has no CRS."""
    transform: Affine6
    """The scene's, as a to f of rasterio's Affine."""
    status: str
    """`done`, or `partial`: nodata also where a block failed."""
    dtype: np.dtype
    """uint8, or little-endian uint16 above 255 classes."""
    nodata: int
    """The value of pixels without data."""
    tables: tuple[MaskTable, ...]
    """Its tiles are in these; no tile is in two."""

    @classmethod
    def open(cls, output: Output, scene_id: str) -> Self:
        """Raises UsageError if the scene is unknown, not published yet, or in quarantine, or if a
        table is gone or damaged; UnfinishedError if the scene is just being replaced."""
        shard_id = _find(output, scene_id)
        with ExitStack() as on_error:
            table = on_error.enter_context(MaskTable(output, shard_id))
            # Replaced rows go from `scenes` before `masks`. So the row, found once more after the
            # table was opened, says that the table holds the scene's tiles.
            rows = _scene_rows(output, shard_id, scene_id)
            if not rows:
                raise UnfinishedError(
                    f"{output.store.root}: {scene_id} is being replaced; try again"
                )
            mask = cls._of(output, rows[0], (table,))
            on_error.pop_all()
        return mask

    @classmethod
    def _of(cls, output: Output, row: dict[str, Any], tables: tuple[MaskTable, ...]) -> Self:
        classes = len(output.job.class_names)
        known = {**row, "transform": tuple(row["transform"])}
        return cls(**known, dtype=mask_dtype(classes), nodata=nodata_value(classes), tables=tables)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for table in self.tables:
            table.close()

    @property
    def rect(self) -> Rect:
        """The whole scene."""
        return Rect(0, 0, self.width, self.height)

    def read(self, rect: Rect) -> np.ndarray:
        """The class ids [rect.height, rect.width] of a rectangle; nodata where there is no tile.

        Raises UsageError if the rectangle is empty or not inside the scene, or if the table is
        damaged.
        """
        if not (
            0 <= rect.col_off < rect.col_end <= self.width
            and 0 <= rect.row_off < rect.row_end <= self.height
        ):
            raise UsageError(
                f"{self.scene_id}: the rectangle {rect} is empty or not inside the scene of"
                f" {self.width}x{self.height} px; ask for one that is"
            )
        ids_HW = np.full((rect.height, rect.width), self.nodata, self.dtype)
        for tile, tile_HW in self._tiles(rect):
            left, top = max(tile.col_off, rect.col_off), max(tile.row_off, rect.row_off)
            right, bottom = min(tile.col_end, rect.col_end), min(tile.row_end, rect.row_end)
            width, height = right - left, bottom - top
            source_HW = tile_HW[top - tile.row_off :, left - tile.col_off :]
            target_HW = ids_HW[top - rect.row_off :, left - rect.col_off :]
            target_HW[:height, :width] = source_HW[:height, :width]
        return ids_HW

    def tiles(self) -> Iterator[tuple[Rect, np.ndarray]]:
        """Every mask tile that has data: its place in the scene, and its class ids, read-only.

        In the order of the table: the cheapest way through a large scene, because each row group is
        read once.
        """
        return self._tiles(self.rect)

    def _tiles(self, rect: Rect) -> Iterator[tuple[Rect, np.ndarray]]:
        return chain.from_iterable(table.tiles(self.scene_id, rect) for table in self.tables)

    def strips(self, height: int = STRIP_PX) -> Iterator[tuple[Rect, np.ndarray]]:
        """The scene from top to bottom in full-width strips of `height` rows, the last one lower.

        A row group holds about 16 x 16 neighboring tiles of a large scene, and is read again for
        each strip that it meets: the higher the strips, the fewer the reads, and the more memory.
        """
        for row_off in range(0, self.height, height):
            rect = Rect(0, row_off, self.width, min(height, self.height - row_off))
            yield rect, self.read(rect)


def scene_masks(output: Output) -> Iterator[SceneMask]:
    """The masks of all published scenes, shard by shard, without those in quarantine.

    Each one is open until the next one is asked for.
    """
    seen: set[str] = set()
    for shard_id in _newest_first(output):
        with MaskTable(output, shard_id) as table:  # before `scenes` is read: see SceneMask.open
            rows = _scene_rows(output, shard_id)
            masked = [row for row in rows if _has_mask(row) and row["scene_id"] not in seen]
            seen.update(row["scene_id"] for row in rows)
            for row in masked:
                yield SceneMask._of(output, row, (table,))


def _newest_first(output: Output) -> list[str]:
    """The published shards. A later one's rows of a scene count: the earlier one's are deleted just
    before these appear, but a writer that was only slow may have put them back."""
    return sorted(output.committed(), reverse=True)


def _has_mask(row: dict[str, Any]) -> bool:
    return bool(row["status"] != "quarantined")


def _find(output: Output, scene_id: str) -> str:
    """The shard that holds a scene.

    Raises UsageError if there is none, or none with a mask.
    """
    shard_ids = _newest_first(output)
    pool = ThreadPoolExecutor(THREADS)
    try:
        results = pool.map(partial(_scene_rows, output, scene_id=scene_id), shard_ids)
        for shard_id, rows in zip(shard_ids, results, strict=True):
            for row in rows:
                if _has_mask(row):
                    return shard_id
                raise UsageError(_why_quarantined(output, shard_id, scene_id))
    finally:
        pool.shutdown(cancel_futures=True)
    raise UsageError(_why_missing(output, scene_id))


def _scene_rows(output: Output, shard_id: str, scene_id: str | None = None) -> list[dict[str, Any]]:
    """A shard's rows of `scenes`, or those of one scene."""
    filters = None if scene_id is None else [("scene_id", "=", scene_id)]
    damage = damage_as_usage_error(output, "scenes", shard_id)
    with output.open_table("scenes", shard_id) as file, damage:
        table = pq.read_table(file, columns=_COLUMNS, filters=filters)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _why_quarantined(output: Output, shard_id: str, scene_id: str) -> str:
    damage = damage_as_usage_error(output, "quarantine", shard_id)
    with output.open_table("quarantine", shard_id) as file, damage:
        table = pq.read_table(file, columns=["message"], filters=[("scene_id", "=", scene_id)])
    reasons = table["message"].to_pylist()
    return (
        f"{output.store.root}: {scene_id} is in quarantine and has no mask"
        f" ({reasons[0] if reasons else 'no reason recorded'}); fix the input, then run the same"
        " command with --retry-quarantined"
    )


def _why_missing(output: Output, scene_id: str) -> str:
    root = output.store.root
    if any(scene_id in shard.scene_ids for shard in output.shards()):
        return f"{root}: {scene_id} is not published yet; `swath run --job {root}/job.toml` resumes"
    return (
        f'{root}: there is no scene {scene_id}; `swath query {root} "SELECT scene_id FROM scenes"`'
        " lists those there are"
    )

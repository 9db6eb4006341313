"""One shard's published table `masks`, read by row groups: small columns first, then masks.

Whether a row group may hold what is asked for is in the statistics of the file's footer; whether it
does, in its small columns. Only then are its masks decoded. Knows a scene by its ID alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError, one_line
from pipeline.output.layout import Output, commit_path, table_path
from pipeline.scene import Rect
from pipeline.settings import MASK_TILE_PX
from pipeline.unit import mask_dtype

_SMALL_COLUMNS = ["scene_id", "col_off", "row_off", "width", "height"]
_BATCH_ROWS = 16
"""Masks copied out of a row group at once. (Arrow writes those of a row group as one page, which is
decompressed as a whole.)"""
_CACHED_GROUPS = 4096
"""The largest number of row groups whose tiles' places are kept: a million tiles, 24 MB."""
_LAST_TEXT = "\U0010ffff"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)
"""Errors of pyarrow and numpy for a file that is not a table as it was written."""


@contextmanager
def damage_as_usage_error(output: Output, table: str, shard_id: str) -> Iterator[None]:
    """Raise UsageError, with the file and the remedy, if what is read in the block is damaged."""
    try:
        yield
    except _DAMAGE as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
            raise  # the machine's, not pyarrow's
        why = one_line(error, type(error).__name__)
        raise UsageError(
            f"{output.store.root}/{table_path(table, shard_id)}: this published table is damaged,"
            f" or was replaced while it was read ({why}); try again; if that fails, put the file"
            f" back, or delete {commit_path(shard_id)}: then `swath run` with the output's job.toml"
            " computes the shard again"
        ) from error


class _Places(NamedTuple):
    """A scene's mask tiles in one row group, in their order: int64 arrays, one value per tile."""

    row_N: np.ndarray
    """The tile's row in the row group."""
    col_off_N: np.ndarray
    row_off_N: np.ndarray
    width_N: np.ndarray
    height_N: np.ndarray

    def meeting(self, rect: Rect) -> _Places:
        """The tiles that share a pixel with the rectangle."""
        meets_N = (
            (self.col_off_N < rect.col_end)
            & (self.col_off_N + self.width_N > rect.col_off)
            & (self.row_off_N < rect.row_end)
            & (self.row_off_N + self.height_N > rect.row_off)
        )
        return _Places(*(values_N[meets_N] for values_N in self))

    def rects(self) -> list[Rect]:
        return [Rect(*map(int, place)) for place in zip(*self[1:], strict=True)]


class MaskTable:
    """The table `masks` of a published shard, open for reading by one thread at a time."""

    def __init__(self, output: Output, shard_id: str) -> None:
        """Raises UsageError if the table is gone or damaged."""
        self._output, self._shard_id = output, shard_id
        self._dtype = mask_dtype(len(output.job.class_names))
        with ExitStack() as on_error:
            self._file = on_error.enter_context(output.open_table("masks", shard_id))
            on_error.enter_context(damage_as_usage_error(output, "masks", shard_id))
            self._table = pq.ParquetFile(self._file, pre_buffer=False)
            self._scene_G = self._spans("scene_id", ("", _LAST_TEXT))
            self._col_G = self._spans("col_off", (0, np.inf))
            self._row_G = self._spans("row_off", (0, np.inf))
            on_error.pop_all()
        self._places = lru_cache(_CACHED_GROUPS)(self._read_places)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._table.close()
        self._file.close()

    def tiles(self, scene_id: str, rect: Rect) -> Iterator[tuple[Rect, np.ndarray]]:
        """The scene's mask tiles that share a pixel with the rectangle, in the order of the table:
        each one's place in the scene, and its class ids [height, width], read-only.

        Raises UsageError if the table is damaged or already closed.
        """
        if self._file.closed:
            raise UsageError(
                f"{scene_id}: this mask is closed; read it inside its `with`, and one of"
                " `scene_masks` before the next one is asked for"
            )
        with damage_as_usage_error(self._output, "masks", self._shard_id):
            for group in self._groups(scene_id, rect):
                places = self._places(group, scene_id).meeting(rect)
                masks = self._masks(group, places.row_N)
                for tile, mask in zip(places.rects(), masks, strict=True):
                    yield tile, np.frombuffer(mask, self._dtype).reshape(tile.height, tile.width)

    def _groups(self, scene_id: str, rect: Rect) -> list[int]:
        """The row groups that may hold such tiles, by their statistics."""
        (first, last), (left, right), (top, bottom) = self._scene_G, self._col_G, self._row_G
        may_G = (first <= scene_id) & (last >= scene_id)
        may_G &= (left < rect.col_end) & (right + MASK_TILE_PX > rect.col_off)
        may_G &= (top < rect.row_end) & (bottom + MASK_TILE_PX > rect.row_off)
        groups: list[int] = np.flatnonzero(may_G).tolist()
        return groups

    def _spans(self, name: str, unknown: tuple[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
        """A column's minimum and maximum in each row group; `unknown` if the file has none."""
        schema = self._table.schema
        leaf = [schema.column(index).path for index in range(len(schema))].index(name)
        spans = []
        for group in range(self._table.num_row_groups):
            statistics = self._table.metadata.row_group(group).column(leaf).statistics
            known = statistics is not None and statistics.has_min_max
            spans.append((statistics.min, statistics.max) if known else unknown)
        kind = object if isinstance(unknown[0], str) else float
        low, high = np.array(spans, kind).reshape(-1, 2).T
        return low, high

    def _read_places(self, group: int, scene_id: str) -> _Places:
        table = self._table.read_row_group(group, columns=_SMALL_COLUMNS, use_threads=False)
        row_N = np.flatnonzero(np.array(table["scene_id"].to_pylist(), object) == scene_id)
        columns = (table[name].to_numpy()[row_N] for name in _SMALL_COLUMNS[1:])
        return _Places(row_N, *(column.astype(np.int64) for column in columns))

    def _masks(self, group: int, row_N: np.ndarray) -> Iterator[memoryview]:
        """The masks at these ascending rows of a row group. Stops reading at the last one."""
        if not len(row_N):
            return
        batches = self._table.iter_batches(
            _BATCH_ROWS, row_groups=[group], columns=["mask"], use_threads=False
        )
        start, last = 0, int(row_N[-1])
        for batch in batches:
            end = start + batch.num_rows
            for row in row_N[(row_N >= start) & (row_N < end)].tolist():
                yield memoryview(batch.column(0)[row - start].as_buffer())
            if end > last:
                return
            start = end

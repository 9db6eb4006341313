"""A shard of the plan, which is published and committed at once: its record, and its head.

Counting needs only the head: the record of a plan of many small scenes has hundreds of bytes for
each of them, and half a million of these take seconds to read. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Self

from pipeline.doubt import Doubt
from pipeline.failure import Failure, Rejected
from pipeline.scene import Rect, Scene
from pipeline.unit import Block, Unit

FORMAT = 2
"""The version of a shard's record. With 1, unit files with failures had no marker."""
_REPEATED = (
    "width",
    "height",
    "bands",
    "dtype",
    "crs",
    "datetime",
    "source",
    "storage_px",
    "doubts",
)
"""Fields in which many scenes are equal. No floats: -0.0 and 0.0 are equal, but not the same."""


@dataclass(frozen=True)
class Head:
    """A shard's part in the counts of an output."""

    shard_id: str
    inputs: int
    """The number of inputs, rejected ones included."""
    units: int
    pixels: int
    rejected: int
    retries: Mapping[str, tuple[str, ...]]
    """The same as the shard's."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        return cls(**{**fields, "retries": _tuples(fields["retries"])})


@dataclass(frozen=True)
class Shard:
    """Whole scenes and the units that cover them, published and committed at once."""

    shard_id: str
    scenes: tuple[Scene, ...]
    units: tuple[Unit, ...]
    rejected: tuple[Rejected, ...]
    retries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """scene_id -> the shard_ids of its earlier tries, whose rows this shard replaces."""

    @cached_property
    def scene_ids(self) -> frozenset[str]:
        """The scene_ids of all inputs, rejected ones included."""
        rejected = (rejected.failure.scene_id for rejected in self.rejected)
        return frozenset([*(scene.scene_id for scene in self.scenes), *rejected])

    @property
    def pixels(self) -> int:
        return sum(unit.pixels for unit in self.units)

    @property
    def head(self) -> Head:
        counts = len(self.scene_ids), len(self.units), self.pixels, len(self.rejected)
        return Head(self.shard_id, *counts, self.retries)

    def to_json(self) -> dict[str, Any]:
        """The record: scenes column by column; each unit as a list of blocks, and each block as the
        number of its scene, followed by the core if that is not the whole scene."""
        index = {scene.scene_id: i for i, scene in enumerate(self.scenes)}
        return {
            "format": FORMAT,
            "shard": self.shard_id,
            "scenes": {
                column.name: [getattr(scene, column.name) for scene in self.scenes]
                for column in fields(Scene)
            },
            "units": [
                [_numbers(index[block.scene.scene_id], block) for block in unit.blocks]
                for unit in self.units
            ],
            "rejected": [
                {"version": r.version, "failure": r.failure.to_json()} for r in self.rejected
            ],
            "retries": dict(self.retries),
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Raises ValueError if the record is of another format."""
        if record.get("format") != FORMAT:
            raise ValueError(f"a plan of format {record.get('format', 1)}, not {FORMAT}")
        scenes = _scenes(record["scenes"])
        units = tuple(
            Unit(record["shard"], tuple(_block(scenes, *numbers) for numbers in blocks))
            for blocks in record["units"]
        )
        rejected = tuple(
            Rejected(r["version"], Failure(**r["failure"])) for r in record["rejected"]
        )
        return cls(record["shard"], scenes, units, rejected, _tuples(record["retries"]))


def _tuples(lists: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in lists.items()}


def _frozen(value: Any) -> Any:
    """The value with tuples in place of JSON's lists."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _numbers(scene: int, block: Block) -> list[int]:
    core = block.core
    if core == block.scene.rect:
        return [scene]
    return [scene, core.col_off, core.row_off, core.width, core.height]


def _block(scenes: tuple[Scene, ...], number: int, *core: int) -> Block:
    scene = scenes[number]
    return Block(scene, Rect(*core) if core else scene.rect)


def _scenes(columns: dict[str, list[Any]]) -> tuple[Scene, ...]:
    """The scenes of a record; equal values of repeated fields are one object in memory."""
    count = len(columns["scene_id"])
    # Earlier plans lack columns that have a default since.
    defaults = {f.name: [f.default] * count for f in fields(Scene) if f.default is not MISSING}
    columns = {**defaults, **columns}
    values = []
    for column in fields(Scene):
        cells: Iterable[Any] = map(_frozen, columns[column.name])
        if column.name == "doubts":
            cells = (tuple(Doubt(*doubt) for doubt in doubts) for doubts in cells)
        known: dict[Any, Any] = {}
        shared = column.name in _REPEATED
        values.append([known.setdefault(v, v) for v in cells] if shared else list(cells))
    return tuple(map(Scene, *values))

"""A shard of the plan: what is published and committed at once; its record, and its head.

The head is all that counting asks of a shard: a plan of many small scenes has hundreds of bytes for
each of them, and half a million of these take seconds to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Self

from pipeline.failure import Failure, Rejected
from pipeline.scene import Rect, Scene
from pipeline.unit import Block, Unit

FORMAT = 2
"""Of a shard's record. With 1, units whose blocks had failed bore no mark."""
_REPEATED = ("width", "height", "bands", "dtype", "crs", "datetime", "source")
"""Of a scene: what many have in common. Not its floats, for -0.0 is another one than 0.0."""


@dataclass(frozen=True)
class Head:
    """What a shard adds to the counts."""

    shard_id: str
    inputs: int
    """With those that are rejected."""
    units: int
    pixels: int
    rejected: int
    retries: Mapping[str, tuple[str, ...]]
    """As the shard's."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        return cls(**{**fields, "retries": _tuples(fields["retries"])})


@dataclass(frozen=True)
class Shard:
    """Whole scenes and the units that cover them: what is published and committed at once."""

    shard_id: str
    scenes: tuple[Scene, ...]
    units: tuple[Unit, ...]
    rejected: tuple[Rejected, ...]
    retries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """scene_id -> the shards of its earlier tries, whose rows this one replaces."""

    @cached_property
    def scene_ids(self) -> frozenset[str]:
        """Of its inputs, those that could not be described too."""
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
        """Scenes by column; of a unit, for each block the number of its scene, with the core where
        that is not all of it."""
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
        """Raises ValueError where the record is of another format."""
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


def _numbers(scene: int, block: Block) -> list[int]:
    core = block.core
    if core == block.scene.rect:
        return [scene]
    return [scene, core.col_off, core.row_off, core.width, core.height]


def _block(scenes: tuple[Scene, ...], number: int, *core: int) -> Block:
    scene = scenes[number]
    return Block(scene, Rect(*core) if core else scene.rect)


def _scenes(columns: dict[str, list[Any]]) -> tuple[Scene, ...]:
    """What many of them have in common is one object in memory."""
    count = len(columns["scene_id"])
    # Earlier plans lack columns that have a default since.
    defaults = {f.name: [f.default] * count for f in fields(Scene) if f.default is not MISSING}
    columns = {**defaults, **columns}
    values = []
    for column in fields(Scene):
        here = (tuple(v) if isinstance(v, list) else v for v in columns[column.name])
        known: dict[Any, Any] = {}
        shared = column.name in _REPEATED
        values.append([known.setdefault(v, v) for v in here] if shared else list(here))
    return tuple(map(Scene, *values))

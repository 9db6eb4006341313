"""The record in commits/ that makes a shard count as published. Plain values; knows no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from pipeline.failure import Failure


@dataclass(frozen=True)
class Commit:
    """A published shard, as `status` and receipts need to know it without opening its tables."""

    shard_id: str
    units: int
    pixels: int
    """Pixels of all units, quarantined ones included."""
    failures: tuple[Failure, ...]
    """The shard's rows of `quarantine`."""
    pixels_without_area: Mapping[str, int]
    """scene_id -> the number of valid pixels outside the domain of the scene's CRS."""

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        return {"shard": record.pop("shard_id"), **record}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            shard_id=record["shard"],
            units=record["units"],
            pixels=record["pixels"],
            failures=tuple(Failure(**row) for row in record["failures"]),
            pixels_without_area=record["pixels_without_area"],
        )

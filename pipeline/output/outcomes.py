"""What has come of the planned inputs, by the files of units and the commits of shards."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from pipeline.errors import UnfinishedError, one_line
from pipeline.failure import Failure
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, unit_path
from pipeline.output.parquet import read_outcome
from pipeline.output.shard import Shard
from pipeline.unit import Unit, UnitOutcome

T = TypeVar("T")

_DAMAGE = (OSError, ValueError, KeyError, TypeError)
"""What pyarrow, and who looks for a unit's outcome, say of a file that is no unit's."""


_FOOTER_BYTES = 1 << 16
"""A unit's footer has 7 kB, and 2 kB more for each 256 mask tiles or a few failures."""


@dataclass(frozen=True)
class Outcomes:
    """What has come of the planned inputs; planned = done + partial + quarantined in the end."""

    planned: int
    done: int
    partial: int
    quarantined: int
    failures: tuple[Failure, ...]
    """The rows of `quarantine`, but those of inputs that are being tried again."""
    pixels_without_area: int

    @property
    def total(self) -> int:
        """Inputs that have an outcome."""
        return self.done + self.partial + self.quarantined


def outcome_of(output: Output, unit: Unit) -> UnitOutcome:
    """The outcome in a unit's file, read in one request unless its footer is unusually long.

    Raises UnfinishedError where the file is damaged.
    """
    path = unit_path(unit)
    with suppress(*_DAMAGE):
        return _read_outcome(io.BytesIO(output.store.tail(path, _FOOTER_BYTES)))
    return from_unit_file(output, path, _read_outcome)


def _read_outcome(file: BinaryIO) -> UnitOutcome:
    return UnitOutcome.from_json(read_outcome(file))


def from_unit_file(output: Output, path: str, read: Callable[[BinaryIO], T]) -> T:
    """What `read` makes of a unit's file. Raises UnfinishedError where the file is damaged."""
    try:
        with output.store.open(path) as file:
            return read(file)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not pyarrow's
    # A task that Ray repeats may have replaced it between two ranges of it: whole, it is one file.
    data = output.store.read(path)
    try:
        return read(io.BytesIO(data))
    except _DAMAGE as error:
        why = one_line(error, type(error).__name__)
        raise UnfinishedError(
            f"{output.store.root}/{path}: is damaged ({len(data)} bytes: {why}); delete it, and the"
            " same command computes its unit again"
        ) from error


def failures_in(record: UnitOutcome | Commit, shard: Shard) -> list[Failure]:
    """The record's failures of inputs that still count in this shard."""
    return [failure for failure in record.failures if failure.scene_id in shard.scene_ids]


def statuses(shard: Shard, failures: Iterable[Failure]) -> dict[str, str]:
    """Status of each input: done, partial where some of its blocks failed, else quarantined."""
    failures_of = Counter(failure.scene_id for failure in failures)
    blocks_of = Counter(block.scene.scene_id for unit in shard.units for block in unit.blocks)
    found = {rejected.failure.scene_id: "quarantined" for rejected in shard.rejected}
    for scene in shard.scenes:
        count = failures_of[scene.scene_id]
        partly = "partial" if count < blocks_of[scene.scene_id] else "quarantined"
        found[scene.scene_id] = partly if count else "done"
    return found


def outcomes(shards: Collection[Shard], commits: Iterable[Commit]) -> Outcomes:
    """What commits say of `standing` shards."""
    published = {commit.shard_id: commit for commit in commits}
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    without_area = 0
    for shard in shards:
        commit = published.get(shard.shard_id)
        if commit is None:
            continue
        here = failures_in(commit, shard)
        counts.update(statuses(shard, here).values())
        failures += here
        missing = commit.pixels_without_area
        without_area += sum(missing.get(scene.scene_id, 0) for scene in shard.scenes)
    return Outcomes(
        planned=sum(len(shard.scene_ids) for shard in shards),
        done=counts["done"],
        partial=counts["partial"],
        quarantined=counts["quarantined"],
        failures=tuple(failures),
        pixels_without_area=without_area,
    )

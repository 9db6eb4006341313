"""The outcomes of units, in their files, and of inputs, counted from the commits of shards."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import pyarrow as pa

from pipeline.errors import LOG, UnfinishedError, one_line
from pipeline.failure import Failure
from pipeline.output.commit import Commit
from pipeline.output.layout import Output, unit_path
from pipeline.output.parquet import read_outcome
from pipeline.output.shard import Shard
from pipeline.unit import Unit, UnitOutcome

T = TypeVar("T")

DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, pa.ArrowException)
"""Errors of reading a file that is not a unit's: pyarrow's, and of `UnitOutcome.from_json`."""
_FOOTER_BYTES = 1 << 16
"""A unit's footer has 7 kB, and 2 kB more for each 256 mask tiles or a few failures."""


class DamagedUnitError(UnfinishedError):
    """A unit's file is cut, empty or garbage: the unit is to be computed again. The message says
    what is wrong with the file."""


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of the planned inputs; planned = done + partial + quarantined in the end."""

    planned: int
    done: int
    partial: int
    quarantined: int
    failures: tuple[Failure, ...]
    """The rows of `quarantine`, except those of inputs that are being retried."""
    pixels_without_area: int
    """The number of valid pixels outside the domain of their scene's CRS."""


def outcome_of(output: Output, unit: Unit) -> UnitOutcome:
    """The outcome in a unit's file, read in one request unless its footer is unusually long.

    Raises DamagedUnitError, and FileNotFoundError if the file is gone.
    """
    path = unit_path(unit)
    with suppress(*DAMAGE):
        return _read_outcome(io.BytesIO(output.store.tail(path, _FOOTER_BYTES)))
    return read_unit_file(output, path, _read_outcome)


def _read_outcome(file: BinaryIO) -> UnitOutcome:
    return UnitOutcome.from_json(read_outcome(file))


def read_unit_file(output: Output, path: str, read: Callable[[BinaryIO], T]) -> T:
    """The result of `read` on a unit's file. Raises DamagedUnitError, and FileNotFoundError if the
    file is gone."""
    try:
        with output.store.open(path) as file:
            return read(file)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not pyarrow's
    # A task that Ray repeated may have replaced the file between two ranges. Read at once, it is
    # one file.
    data = output.store.read(path)
    try:
        return read(io.BytesIO(data))
    except DAMAGE as error:
        why = one_line(error, type(error).__name__)
        raise DamagedUnitError(f"{len(data)} bytes: {why}") from error


def warn_of_damage(output: Output, unit: Unit, why: str) -> None:
    """Tell the user that a unit's file is damaged: a run computes the unit again by itself."""
    LOG.warning(
        "%s/%s: is damaged (%s); its unit is open again, and `swath run` computes it",
        output.store.root,
        unit_path(unit),
        why,
    )


def failures_in(record: UnitOutcome | Commit, shard: Shard) -> list[Failure]:
    """The record's failures of inputs that no later shard has planned again."""
    return [failure for failure in record.failures if failure.scene_id in shard.scene_ids]


def statuses(shard: Shard, failures: Iterable[Failure]) -> dict[str, str]:
    """The status of each input by scene_id: done, partial if some of its blocks failed, or
    quarantined."""
    failures_of = Counter(failure.scene_id for failure in failures)
    blocks_of = Counter(block.scene.scene_id for unit in shard.units for block in unit.blocks)
    status_of = {rejected.failure.scene_id: "quarantined" for rejected in shard.rejected}
    for scene in shard.scenes:
        count = failures_of[scene.scene_id]
        failed = "partial" if count < blocks_of[scene.scene_id] else "quarantined"
        status_of[scene.scene_id] = failed if count else "done"
    return status_of


def count_outcomes(shards: Collection[Shard], commits: Iterable[Commit]) -> Outcomes:
    """Counts what the commits record of shards as `current_shards` returns them."""
    commit_of = {commit.shard_id: commit for commit in commits}
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    without_area = 0
    for shard in shards:
        commit = commit_of.get(shard.shard_id)
        if commit is None:
            continue
        shard_failures = failures_in(commit, shard)
        counts.update(statuses(shard, shard_failures).values())
        failures += shard_failures
        pixels_of = commit.pixels_without_area
        without_area += sum(pixels_of.get(scene.scene_id, 0) for scene in shard.scenes)
    return Outcomes(
        planned=sum(len(shard.scene_ids) for shard in shards),
        done=counts["done"],
        partial=counts["partial"],
        quarantined=counts["quarantined"],
        failures=tuple(failures),
        pixels_without_area=without_area,
    )

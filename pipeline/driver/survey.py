"""INPUTs to Scenes: every header read, in parallel; what is already planned is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.errors import UsageError
from pipeline.failure import Rejected
from pipeline.imagery.header_pool import OnDescribed
from pipeline.imagery.input_file import InputFile, escape_non_utf8
from pipeline.imagery.source import describe_inputs, find_inputs
from pipeline.output.resume import Recorded
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import Access


@dataclass(frozen=True)
class PlannedInput:
    """An input as it was planned last."""

    scene_id: str
    version: str
    shard_ids: tuple[str, ...]
    """Of all its tries."""


@dataclass(frozen=True)
class PlannedInputs:
    """What a recorded plan holds already, and what has come of it."""

    urls: Mapping[str, str]
    """scene_id -> url."""
    planned: Mapping[str, PlannedInput]
    """By url."""
    failed: frozenset[str]
    """scene_ids."""
    waiting: frozenset[str]
    """scene_ids with blocks that have no outcome yet."""
    closed: bool
    """Whether others work by this plan, so that nothing may be added to it."""
    retry: bool
    """Whether failed inputs that have not changed are tried again; changed ones always are."""

    @classmethod
    def of(cls, recorded: Recorded, retry: bool, closed: bool = False) -> PlannedInputs:
        urls: dict[str, str] = {}
        planned: dict[str, PlannedInput] = {}
        for shard in recorded.shards:
            inputs = [(scene.scene_id, scene.url, scene.version) for scene in shard.scenes]
            inputs += [(r.failure.scene_id, r.failure.url, r.version) for r in shard.rejected]
            for scene_id, url, version in inputs:
                urls[scene_id] = url
                tries = (*shard.retries.get(scene_id, ()), shard.shard_id)
                planned[url] = PlannedInput(scene_id, version, tries)
        failed = frozenset(failure.scene_id for failure in recorded.failures)
        return cls(urls, planned, failed, frozenset(recorded.waiting), closed, retry)

    def is_to_be_planned_again(self, planned: PlannedInput, version: str) -> bool:
        """An earlier version can be read no more, so it is not waited for either."""
        changed = version != planned.version
        failed = planned.scene_id in self.failed
        return (failed and self.retry) or (changed and (failed or planned.scene_id in self.waiting))


@dataclass(frozen=True)
class Survey:
    """What the INPUTs add to the plan."""

    inputs: int
    """Files that the INPUTs name, planned already or not."""
    scenes: tuple[Scene, ...]
    rejected: tuple[Rejected, ...]
    retries: Mapping[str, tuple[str, ...]]
    """scene_id -> shards of the earlier tries, of those that are planned again."""
    withheld: tuple[str, ...]
    """Urls of inputs that the store does not give: left open, and tried again by the next run."""
    unplanned: tuple[str, ...]
    """Urls of inputs for a later run, because other drivers work by the recorded plan."""
    waited: int
    """How often the processes that read headers tried something again."""
    notes: tuple[str, ...]

    @property
    def rejection(self) -> tuple[str, ...]:
        """A note on the rejected, for whom they are not listed one by one."""
        if not self.rejected:
            return ()
        return (
            f"{len(self.rejected)} of {_inputs(self.inputs, 'cannot', 'cannot')} be used: see"
            f" quarantine; the first: {self.rejected[0].failure.message}",
        )


def survey(
    inputs: Sequence[str],
    settings: Settings,
    channels: int,
    planned: PlannedInputs,
    access: Access,
    on_described: OnDescribed | None = None,
) -> Survey:
    """Describes the inputs that are not planned yet, and those that are to be tried again;
    on_described is told how many of how many.

    Raises UsageError for INPUTs that name nothing, and where no input at all can be used;
    UnfinishedError where a store does not answer, or withholds more than a few.
    """
    found = find_inputs(inputs, access.impatient())
    new, changed, retries = _sorted_out(found, planned)
    unplanned = tuple(escape_non_utf8(file.url) for file in new) if planned.closed else ()
    if unplanned:
        new, retries = [], {}
    described = describe_inputs(
        new, settings, channels, access, on_described or (lambda _done, _total: None)
    )
    scenes = tuple(result for result in described.results if isinstance(result, Scene))
    rejected = tuple(result for result in described.results if isinstance(result, Rejected))
    if described.unavailable and not described.results and not planned.urls:
        raise described.unavailable[0][1]
    if rejected and not scenes and not planned.urls:
        reason = rejected[0].failure.message
        if len(rejected) == 1:
            raise UsageError(reason)
        raise UsageError(f"none of the {len(found)} inputs can be used; the first: {reason}")
    for file, _ in described.unavailable:
        retries.pop(file.scene_id, None)
    notes = []
    if described.unavailable:
        notes.append(
            _inputs(len(described.unavailable), "is left open", "are left open")
            + f"; withheld by the store, the first: {described.unavailable[0][1].cause};"
            " the same command tries again"
        )
    if transparent := [scene for scene in scenes if scene.alpha]:
        first = transparent[0]
        notes.append(
            _inputs(
                len(transparent),
                "feeds a band that it calls alpha to the network",
                "feed a band that they call alpha to the network",
            )
            + f", first {first.url} (band {first.alpha[0]}): check --bands"
        )
    notes += _without_nodata(scenes)
    if changed:
        notes.append(
            _inputs(
                len(changed),
                "has changed since it was planned",
                "have changed since they were planned",
            )
            + f", first {changed[0]}; this output is about the earlier versions: segment the new"
            " ones into a new --output"
        )
    if retries:
        notes.append(
            _inputs(
                len(retries),
                "is planned again: it failed, or changed before its turn",
                "are planned again: they failed, or changed before their turn",
            )
        )
    elif planned.retry and not unplanned:
        notes.append("--retry-quarantined: none of these inputs is in quarantine")
    urls = tuple(escape_non_utf8(file.url) for file, _ in described.unavailable)
    return Survey(
        len(found), scenes, rejected, retries, urls, unplanned, described.retries, tuple(notes)
    )


def _sorted_out(
    found: Sequence[InputFile], known: PlannedInputs
) -> tuple[list[InputFile], list[str], dict[str, tuple[str, ...]]]:
    """The files to be planned, the urls of those that have changed since they were, and for those
    that are to be planned again their earlier shards by scene_id."""
    new, changed, retries = [], [], {}
    for file in found:
        planned = known.planned.get(escape_non_utf8(file.url))
        if planned is None:
            other = known.urls.get(escape_non_utf8(file.scene_id))
            if other is not None:
                raise UsageError(
                    f"{file.url}: this output has another file as scene {file.scene_id!r}"
                    f" ({other}); use a new --output, or a common parent folder as the INPUT from"
                    " the start"
                )
            new.append(file)
        elif known.is_to_be_planned_again(planned, file.version):
            new.append(replace(file, scene_id=planned.scene_id))
            retries[planned.scene_id] = planned.shard_ids
        elif file.version != planned.version:
            changed.append(file.url)
    return new, changed, retries


def _without_nodata(scenes: Sequence[Scene]) -> Iterator[str]:
    """A note on those whose type has no such value: all of their pixels will be valid."""
    never = [scene for scene in scenes if not _can_hold(scene.dtype, scene.nodata)]
    if never:
        first = never[0]
        yield (
            _inputs(len(never), "holds", "hold")
            + f" a type that has no {first.nodata:g}, first {first.url} ({first.dtype}): --nodata"
            " takes none of its pixels for missing, and what the file says of nodata is not asked"
        )


def _can_hold(dtype: str, nodata: float | None) -> bool:
    if nodata is None or np.dtype(dtype).kind not in "iu":
        return True
    limits = np.iinfo(dtype)
    return float(nodata).is_integer() and limits.min <= nodata <= limits.max


def _inputs(count: int, one: str, more: str) -> str:
    return f"{count:,} input {one}" if count == 1 else f"{count:,} inputs {more}"

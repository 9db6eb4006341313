"""INPUTs to Scenes: every header read, in parallel; what is already planned is left alone.

Headers are read in processes of their own, for one that crashes GDAL must not end the run.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from pipeline.access import Access
from pipeline.describe import attempt
from pipeline.errors import SwathError, UsageError
from pipeline.inputs import Found, find_inputs, printable
from pipeline.output import Rejected, Shard
from pipeline.receipt import Failure
from pipeline.sandbox import Died, Limits, Outcome, Returned, sandboxed
from pipeline.scene import Scene
from pipeline.settings import Settings

_PROCESSES = 8
"""At most: a driver may have many cores, and each process is a copy of GDAL of some 100 MB."""
_THREADS = 8
"""Headers wait for the disk or the network, not for the CPU."""
_HEADER_S, _REMOTE_HEADER_S = 60.0, 600.0
"""A header takes milliseconds. Over a network it may take as long as what may pass is waited for,
which must never count as a fault of the file."""
_HEADER_BYTES = 1_000_000_000
"""What the headers under way in one process may allocate. The largest honest ones, tile indices of
scenes of 10^12 px, take some 10 MB."""

OnDescribed = Callable[[int, int], None]


@dataclass(frozen=True)
class Known:
    """What a recorded plan holds already."""

    urls: Mapping[str, str]
    """scene_id -> url."""
    versions: Mapping[str, frozenset[str]]
    """url -> versions."""
    rejected: frozenset[str]
    """Urls none of whose versions could be described."""

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> Known:
        urls: dict[str, str] = {}
        versions: dict[str, set[str]] = defaultdict(set)
        described, failed = set(), set()
        for shard in shards:
            for scene in shard.scenes:
                urls[scene.scene_id] = scene.url
                versions[scene.url].add(scene.version)
                described.add(scene.url)
            for rejected in shard.rejected:
                failure = rejected.failure
                urls[failure.scene_id] = failure.url
                versions[failure.url].add(rejected.version)
                failed.add(failure.url)
        frozen = {url: frozenset(some) for url, some in versions.items()}
        return cls(urls, frozen, frozenset(failed - described))


@dataclass(frozen=True)
class Survey:
    """What the INPUTs add to the plan."""

    inputs: int
    """Files that the INPUTs name, planned already or not."""
    scenes: tuple[Scene, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]


def survey(
    inputs: Sequence[str],
    settings: Settings,
    channels: int,
    planned: Known,
    access: Access,
    on_described: OnDescribed | None = None,
) -> Survey:
    """Describes the inputs that are not planned yet; on_described is told how many of how many.

    Raises UsageError for INPUTs that name nothing, and where no input at all can be used;
    UnfinishedError where a store does not answer.
    """
    found = find_inputs(inputs, access)
    new, changed = _sorted_out(found, planned)
    work = partial(attempt, settings=settings, channels=channels, access=access)
    results = _all_described(new, work, on_described or (lambda _done, _total: None))
    scenes = tuple(result for result in results if isinstance(result, Scene))
    rejected = tuple(result for result in results if isinstance(result, Rejected))
    if rejected and not scenes and not planned.urls:
        reason = rejected[0].failure.message
        if len(rejected) == 1:
            raise UsageError(reason)
        raise UsageError(f"none of the {len(found)} inputs can be used; the first: {reason}")
    notes = []
    if rejected:
        notes.append(
            f"{len(rejected)} of {len(found)} inputs cannot be used and go to quarantine; the"
            f" first: {rejected[0].failure.message}"
        )
    if changed:
        notes.append(
            f"{len(changed)} inputs have changed since they were planned, first {changed[0]}; this"
            " output is about their earlier versions: segment the new ones into a new --output"
        )
    return Survey(len(found), scenes, rejected, tuple(notes))


def _all_described(
    files: Sequence[Found],
    work: Callable[[Found], Scene | Failure],
    on_described: OnDescribed,
) -> list[Scene | Rejected]:
    """In the order of the files."""
    remote = any("://" in file.url for file in files)
    limits = Limits(
        processes=min(os.cpu_count() or 1, _PROCESSES),
        threads=_THREADS,
        item_s=_REMOTE_HEADER_S if remote else _HEADER_S,
        memory_bytes=_HEADER_BYTES,
    )
    results: dict[int, Scene | Rejected] = {}
    with closing(sandboxed(work, files, limits)) as outcomes:
        for index, outcome in outcomes:
            results[index] = _described(files[index], outcome)
            on_described(len(results), len(files))
    return [results[index] for index in range(len(files))]


def _sorted_out(found: Sequence[Found], planned: Known) -> tuple[list[Found], list[str]]:
    """The files to be planned, and the urls of those that have changed since they were."""
    new, changed = [], []
    for file in found:
        versions = planned.versions.get(printable(file.url))
        if versions is None:
            other = planned.urls.get(printable(file.scene_id))
            if other is not None:
                raise UsageError(
                    f"{file.url}: this output has another file as scene {file.scene_id!r}"
                    f" ({other}); use a new --output, or a common parent folder as the INPUT from"
                    " the start"
                )
            new.append(file)
        elif file.version not in versions:
            if printable(file.url) in planned.rejected:  # it may have been mended
                suffix = hashlib.sha256(file.version.encode()).hexdigest()[:8]
                new.append(replace(file, scene_id=f"{file.scene_id}@{suffix}"))
            else:
                changed.append(file.url)
    return new, changed


def _described(file: Found, outcome: Outcome[Scene | Failure]) -> Scene | Rejected:
    """Raises what concerns more than this file: a store that does not answer."""
    if isinstance(outcome, Returned):
        if isinstance(outcome.value, Scene):
            return outcome.value
        return Rejected(file.version, outcome.value)
    if isinstance(outcome, Died):
        return _rejected(file, outcome.reason, outcome.how)
    if isinstance(outcome.error, SwathError):
        raise outcome.error
    return _rejected(file, type(outcome.error).__name__, str(outcome.error))


def _rejected(file: Found, error: str, why: str) -> Rejected:
    url = printable(file.url)
    why = " ".join(why.split())
    failure = Failure(
        scene_id=printable(file.scene_id),
        url=url,
        stage="describe",
        window=None,
        error=error,
        message=f"{url}: its header cannot be read: {why}; replace the file or leave it out",
    )
    return Rejected(file.version, failure)

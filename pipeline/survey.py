"""INPUTs to Scenes: every header read, in parallel; what is already planned is left alone."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline.access import Access
from pipeline.describe import describe
from pipeline.errors import InputError, UsageError
from pipeline.inputs import Found, find_inputs
from pipeline.output import Rejected, Shard
from pipeline.receipt import Failure
from pipeline.scene import Scene
from pipeline.settings import Settings

_THREADS = 8
"""Headers wait for the disk or the network, not for the CPU."""


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
    inputs: Sequence[str], settings: Settings, channels: int, planned: Known, access: Access
) -> Survey:
    """Describes the inputs that are not planned yet.

    Raises UsageError for INPUTs that name nothing, and where no input at all can be used.
    """
    found = find_inputs(inputs, access)
    new, changed = _sorted_out(found, planned)
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(lambda file: _describe(file, settings, channels, access), new))
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


def _sorted_out(found: Sequence[Found], planned: Known) -> tuple[list[Found], list[str]]:
    """The files to be planned, and the urls of those that have changed since they were."""
    new, changed = [], []
    for file in found:
        versions = planned.versions.get(_printable(file.url))
        if versions is None:
            other = planned.urls.get(_printable(file.scene_id))
            if other is not None:
                raise UsageError(
                    f"{file.url}: this output has another file as scene {file.scene_id!r}"
                    f" ({other}); use a new --output, or a common parent folder as the INPUT from"
                    " the start"
                )
            new.append(file)
        elif file.version not in versions:
            if _printable(file.url) in planned.rejected:  # it may have been mended
                suffix = hashlib.sha256(file.version.encode()).hexdigest()[:8]
                new.append(replace(file, scene_id=f"{file.scene_id}@{suffix}"))
            else:
                changed.append(file.url)
    return new, changed


def _describe(file: Found, settings: Settings, channels: int, access: Access) -> Scene | Rejected:
    try:
        _check_name(file)
        return describe(file, settings, channels, access)
    except (InputError, UsageError) as error:
        failure = Failure(
            scene_id=_printable(file.scene_id),
            url=_printable(file.url),
            stage="describe",
            window=None,
            error=type(error.__cause__ or error).__name__,
            message=str(error),
        )
        return Rejected(file.version, failure)


def _check_name(file: Found) -> None:
    if _printable(file.url) != file.url:
        raise UsageError(f"{_printable(file.url)}: the file's name is not UTF-8; rename it")


def _printable(name: str) -> str:
    """Bytes of a name that are no UTF-8 as \\xNN: tables and records are."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

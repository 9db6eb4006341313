"""INPUTs to Scenes: every header read, in parallel; what is already planned is left alone."""

from __future__ import annotations

import hashlib
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

Known = Mapping[str, tuple[str, str]]
"""scene_id -> (url, version) of what is planned already."""


@dataclass(frozen=True)
class Survey:
    """What the INPUTs add to the plan."""

    inputs: int
    """Files that the INPUTs name, planned already or not."""
    scenes: tuple[Scene, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]


def known(shards: Iterable[Shard]) -> dict[str, tuple[str, str]]:
    """Every input of a recorded plan."""
    recorded = {}
    for shard in shards:
        for scene in shard.scenes:
            recorded[scene.scene_id] = (scene.url, scene.version)
        for rejected in shard.rejected:
            failure = rejected.failure
            recorded[failure.scene_id] = (failure.url, rejected.version)
    return recorded


def survey(
    inputs: Sequence[str], settings: Settings, channels: int, known: Known, access: Access
) -> Survey:
    """Describes the inputs that are not planned yet.

    Raises UsageError for INPUTs that name nothing, for options that do not fit the images, and
    where no input at all can be read.
    """
    found = find_inputs(inputs, access)
    new, changed = [], 0
    for file in found:
        fresh = _fresh(file, known)
        if fresh is not None:
            new.append(fresh)
            changed += fresh.scene_id != file.scene_id
    with ThreadPoolExecutor(_THREADS) as pool:
        results = list(pool.map(lambda file: _describe(file, settings, channels, access), new))
    scenes = tuple(result for result in results if isinstance(result, Scene))
    rejected = tuple(result for result in results if isinstance(result, Rejected))
    if rejected and not scenes and not known:
        raise UsageError(
            f"none of the {len(found)} inputs can be read; the first: {rejected[0].failure.message}"
        )
    notes = []
    if changed:
        notes.append(
            f"{changed} inputs have changed since they were planned: their new versions are scenes"
            " of their own, named path@version"
        )
    return Survey(len(found), scenes, rejected, tuple(notes))


def _fresh(file: Found, known: Known) -> Found | None:
    """The file under the id it is to be planned as; None if this version is planned already."""
    if file.scene_id not in known:
        return file
    url, version = known[file.scene_id]
    if url != file.url:
        raise UsageError(
            f"{file.url}: this output has another file as scene {file.scene_id!r} ({url});"
            " use a new --output, or a common parent folder as the INPUT from the start"
        )
    if version == file.version:
        return None
    suffix = hashlib.sha256(file.version.encode()).hexdigest()[:8]
    renamed = replace(file, scene_id=f"{file.scene_id}@{suffix}")
    return None if renamed.scene_id in known else renamed


def _describe(file: Found, settings: Settings, channels: int, access: Access) -> Scene | Rejected:
    try:
        return describe(file, settings, channels, access)
    except InputError as error:
        failure = Failure(
            scene_id=file.scene_id,
            url=file.url,
            stage=error.stage,
            window=None,
            error=type(error.__cause__ or error).__name__,
            message=error.message,
        )
        return Rejected(file.version, failure)

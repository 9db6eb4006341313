"""What a recorded plan holds of the INPUTs, and which files are new, changed or to be retried.

Knows file versions; reads no header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UsageError
from pipeline.imagery.input_file import InputFile, escape_non_utf8
from pipeline.output.resume import OutputRecord


@dataclass(frozen=True)
class PlannedInput:
    """An input as it was last planned."""

    scene_id: str
    version: str
    shard_ids: tuple[str, ...]
    """The shards of all its tries, oldest first."""


@dataclass(frozen=True)
class PlannedInputs:
    """The inputs of a recorded plan, and what has become of them."""

    urls: Mapping[str, str]
    """scene_id -> URL."""
    by_url: Mapping[str, PlannedInput]
    failed: frozenset[str]
    """scene_ids of failed inputs."""
    waiting: frozenset[str]
    """scene_ids of inputs with blocks that have no outcome yet."""
    closed: bool
    """Whether other drivers work by this plan, so that nothing may be added to it."""
    retry: bool
    """Whether failed inputs that have not changed are retried; changed ones always are."""

    @classmethod
    def of(cls, recorded: OutputRecord, retry: bool, closed: bool = False) -> PlannedInputs:
        urls: dict[str, str] = {}
        by_url: dict[str, PlannedInput] = {}
        for shard in recorded.shards:
            inputs = [(scene.scene_id, scene.url, scene.version) for scene in shard.scenes]
            inputs += [(r.failure.scene_id, r.failure.url, r.version) for r in shard.rejected]
            for scene_id, url, version in inputs:
                urls[scene_id] = url
                tries = (*shard.retries.get(scene_id, ()), shard.shard_id)
                by_url[url] = PlannedInput(scene_id, version, tries)
        failed = frozenset(failure.scene_id for failure in recorded.failures)
        return cls(urls, by_url, failed, frozenset(recorded.waiting), closed, retry)

    def is_replanned(self, planned: PlannedInput, version: str) -> bool:
        """Whether an input that is now of this version is planned again. An earlier version can no
        longer be read, so its open blocks are not waited for either."""
        changed = version != planned.version
        failed = planned.scene_id in self.failed
        return (failed and self.retry) or (changed and (failed or planned.scene_id in self.waiting))


@dataclass(frozen=True)
class InputChanges:
    """What the INPUTs' files mean for a recorded plan."""

    to_plan: list[InputFile]
    """Files to plan: new ones and those that are planned again."""
    changed: list[str]
    """URLs of files that have changed since they were planned, and keep their outcome."""
    retries: dict[str, tuple[str, ...]]
    """scene_id -> shards of the earlier tries, for files that are planned again."""
    gone: list[str]
    """URLs of failed inputs that these INPUTs no longer name, if failed ones are to be retried."""


def compare_inputs(files: Sequence[InputFile], planned: PlannedInputs) -> InputChanges:
    """Compare files with a plan. Raises UsageError if a file bears the scene id of another one."""
    to_plan, changed, retries = [], [], {}
    urls = {escape_non_utf8(file.url) for file in files}
    failed = planned.failed if planned.retry else ()
    gone = sorted(planned.urls[key] for key in failed if planned.urls[key] not in urls)
    for file in files:
        known = planned.by_url.get(escape_non_utf8(file.url))
        if known is None:
            other_url = planned.urls.get(escape_non_utf8(file.scene_id))
            if other_url is not None:
                raise UsageError(
                    f"{file.url}: this output has another file as scene {file.scene_id!r}"
                    f" ({other_url}); use a new --output, or a common parent folder as the INPUT"
                    " from the start"
                )
            to_plan.append(file)
        elif planned.is_replanned(known, file.version):
            to_plan.append(replace(file, scene_id=known.scene_id))
            retries[known.scene_id] = known.shard_ids
        elif file.version != known.version:
            changed.append(file.url)
    return InputChanges(to_plan, changed, retries, gone)

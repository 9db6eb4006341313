"""INPUTs to Scenes: all headers are read, in parallel; inputs that are planned already are left
alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.driver.input_notes import count_inputs, notes_on
from pipeline.driver.planned_inputs import InputChanges, PlannedInputs, compare_inputs
from pipeline.errors import UsageError
from pipeline.failure import Rejected
from pipeline.imagery.header_pool import Described, HeaderPool
from pipeline.imagery.input_file import escape_non_utf8
from pipeline.imagery.source import describe_inputs, find_inputs
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import Access


@dataclass(frozen=True)
class Survey:
    """What the INPUTs add to the plan."""

    inputs: int
    """The number of files that the INPUTs name, planned already or not."""
    scenes: tuple[Scene, ...]
    rejected: tuple[Rejected, ...]
    retries: Mapping[str, tuple[str, ...]]
    """scene_id -> shards of the earlier tries, for inputs that are planned again."""
    unavailable: tuple[str, ...]
    """URLs of inputs that the store does not give: left open, and tried again by the next run."""
    unplanned: tuple[str, ...]
    """URLs of inputs left for a later run, because other drivers work by the recorded plan."""
    header_retries: int
    """Retries of the processes that read headers."""
    notes: tuple[str, ...]

    @property
    def rejection(self) -> tuple[str, ...]:
        """A note on the rejected inputs, for a run, which does not list them one by one."""
        if not self.rejected:
            return ()
        return (
            f"{len(self.rejected)} of {count_inputs(self.inputs, 'cannot', 'cannot')} be used: see"
            f" quarantine; the first: {self.rejected[0].failure.message}",
        )


def survey_inputs(
    inputs: Sequence[str],
    settings: Settings,
    channels: int,
    planned: PlannedInputs,
    access: Access,
    pool: HeaderPool,
) -> Survey:
    """Describe the inputs that are not planned yet and those that are planned again.

    channels: of the network; pool: reads their headers. Raises UsageError for INPUTs that
    name nothing, and if no input at all can be used; UnfinishedError if a store does not answer, or
    does not give more than a few files.
    """
    files = find_inputs(inputs, access.impatient())
    changes = compare_inputs(files, planned)
    unplanned: tuple[str, ...] = ()
    if planned.closed:
        unplanned = tuple(escape_non_utf8(file.url) for file in changes.to_plan)
    if unplanned:
        changes = InputChanges([], changes.changed, {}, changes.gone)
    described = describe_inputs(changes.to_plan, settings, channels, access, pool)
    scenes = tuple(result for result in described.results if isinstance(result, Scene))
    rejected = tuple(result for result in described.results if isinstance(result, Rejected))
    if not planned.urls and not scenes:
        _check_usable(described, rejected, len(files))
    left_open = {file.scene_id for file, _ in described.unavailable}
    retries = {key: ids for key, ids in changes.retries.items() if key not in left_open}
    changes = replace(changes, retries=retries)
    nothing_to_retry = planned.retry and not unplanned and not retries and not changes.gone
    return Survey(
        inputs=len(files),
        scenes=scenes,
        rejected=rejected,
        retries=retries,
        unavailable=tuple(escape_non_utf8(file.url) for file, _ in described.unavailable),
        unplanned=unplanned,
        header_retries=described.retries,
        notes=tuple(notes_on(described, changes, nothing_to_retry)),
    )


def _check_usable(described: Described, rejected: Sequence[Rejected], count: int) -> None:
    """Raises the reason if none of `count` inputs can be used, in an output that has none yet."""
    if described.unavailable and not described.results:
        raise described.unavailable[0][1]
    if rejected:
        reason = rejected[0].failure.message
        if len(rejected) == 1:
            raise UsageError(reason)
        raise UsageError(f"none of the {count} inputs can be used; the first: {reason}")

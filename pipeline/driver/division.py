"""The plan of a run for the runner that suits it: recorded shards, then new ones, and their memory.

With `--runner auto` this is where the plain loop or Ray is chosen. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pipeline.driver.survey import Survey
from pipeline.errors import UsageError
from pipeline.output.replacement import current_shards, with_retries
from pipeline.output.resume import OutputRecord, in_share
from pipeline.output.shard import Shard
from pipeline.planning.memory_budget import MemoryBudget, budget_memory
from pipeline.planning.planner import Planner
from pipeline.planning.runner_choice import is_small, may_choose
from pipeline.planning.workload import Workload
from pipeline.settings import Execution, Settings
from pipeline.unit import Unit


@dataclass(frozen=True)
class Division:
    """Shards of units, sized for a runner, and its memory."""

    workload: Workload
    """The costs, on the machine as the runner uses it."""
    plan: list[Shard]
    """The recorded shards, then the new ones, of all drivers."""
    shards: list[Shard]
    """Those of this driver's share."""
    budget: MemoryBudget
    """The division of memory for the shards that are not published yet."""
    on_ray: Workload | None = None
    """The costs on Ray, which takes over if the plain loop's process dies; None: it does not."""
    notes: tuple[str, ...] = ()

    def with_settings(self, settings: Settings) -> Division:
        """The same division under settings with another batch."""
        on_ray = self.on_ray and replace(self.on_ray, settings=settings)
        return replace(self, workload=replace(self.workload, settings=settings), on_ray=on_ray)

    def ray_budget(self, units: Sequence[Unit]) -> MemoryBudget:
        """The memory with which Ray takes these units over. Raises UsageError if they do not
        fit."""
        assert self.on_ray is not None
        return budget_memory(self.on_ray, units)


def divide(
    workload: Workload,
    execution: Execution,
    record: OutputRecord,
    survey: Survey,
    committed: Collection[str],
) -> Division:
    """The division for the runner that was asked for, or for the one that suits the work.

    workload: on the machine as the runner that was asked for uses it, or Ray. Raises UsageError if
    there would be too many units, or if they do not fit into memory.
    """

    def divided(workload: Workload) -> Division:
        new = Planner(workload, execution).shards(
            survey.scenes, survey.rejected, first=len(record.shards)
        )
        plan = current_shards([*record.shards, *with_retries(new, survey.retries)], committed)
        shards = [shard for shard in plan if in_share(shard, execution.shards)]
        open_units = [u for shard in shards if shard.shard_id not in committed for u in shard.units]
        return Division(workload, plan, shards, budget_memory(workload, open_units))

    if not may_choose(execution):
        return divided(workload)
    if is_small(workload, _windows(workload, record, survey, committed)):
        return replace(divided(workload.alone), on_ray=workload)
    try:
        return divided(workload)
    except UsageError as error:
        try:
            division = divided(workload.alone)
        except UsageError:
            raise error from None
    note = (
        "there is too little memory for Ray's processes: a plain loop does the work, with one"
        " replica; if its process dies, the run stops, and the same command resumes it"
    )
    return replace(division, notes=(note,))


def _windows(
    workload: Workload, record: OutputRecord, survey: Survey, committed: Collection[str]
) -> float:
    """Windows of the new scenes and of the recorded shards that are not published."""
    new = sum(workload.grid(scene).count for scene in survey.scenes)
    recorded = (
        workload.grid_windows(block)
        for shard in record.shards
        if shard.shard_id not in committed
        for unit in shard.units
        for block in unit.blocks
    )
    return new + sum(recorded)

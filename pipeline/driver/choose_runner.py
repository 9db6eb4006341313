"""The runner of a run: a plain loop, in this process or another, or Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.driver.local import LocalRunner
from pipeline.driver.loop_runner import LoopRunner
from pipeline.driver.plain_loop import PlainLoop
from pipeline.driver.preparation import Preparation
from pipeline.driver.runner import Runner
from pipeline.errors import UsageError
from pipeline.stages import Work
from pipeline.unit import Unit

if TYPE_CHECKING:
    from pipeline.cluster.stages import Stages


def choose_runner(work: Work, preparation: Preparation, stages: Stages | None = None) -> Runner:
    """The runner that the plan was divided for. stages: see `ray_runner`."""
    loop, division = preparation.request.loop, preparation.division
    if not work.budget.tasks:
        if isinstance(loop, PlainLoop):
            return LocalRunner(work, loop)
        take_over: Callable[[list[Unit]], Runner] | None = None
        if division.on_ray:

            def take_over(units: list[Unit]) -> Runner:
                return ray_runner(replace(work, budget=division.ray_budget(units)), None, stages)

        return LoopRunner(work, loop, take_over)
    loop.close()  # Ray's processes need its memory
    return ray_runner(work, preparation.request.execution.address, stages)


def ray_runner(work: Work, address: str | None, stages: Stages | None) -> Runner:
    """The runner on Ray. stages: see `RayRunner`. Raises UsageError if Ray cannot be imported by
    this Python."""
    if sys.flags.optimize > 1:  # ray/data/_internal/util.py completes them
        raise UsageError(
            "Ray Data needs the docstrings that PYTHONOPTIMIZE=2 or python -OO removes: unset it,"
            " or add --runner local"
        )
    from pipeline.driver.ray_runner import RayRunner  # noqa: PLC0415  Ray takes seconds to load

    return RayRunner(work, address, stages)

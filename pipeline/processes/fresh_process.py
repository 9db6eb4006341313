"""One call of a function in a new process, which may crash, hang or take a GPU's memory with it.

Turns every way in which the process may end into a result or an error of ours; knows nothing of
what it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from pipeline.errors import SwathError, UnfinishedError, one_line
from pipeline.processes.sandbox import Limits, Outcome, Raised, Returned, run_in_sandbox

T = TypeVar("T")
R = TypeVar("R")


def run_in_fresh_process(function: Callable[[T], R], item: T, limits: Limits, failed: str) -> R:
    """The function's result for the item, computed in a new process; function and item are as
    `run_in_sandbox` takes them.

    Raises the function's own SwathError; for any other end an UnfinishedError that starts with
    `failed`.
    """
    with closing(run_in_sandbox(function, [item], limits)) as outcomes:
        _, outcome = next(outcomes)
    return _result(outcome, failed)


def _result(outcome: Outcome[R], failed: str) -> R:
    if isinstance(outcome, Returned):
        return outcome.value
    if isinstance(outcome, Raised):
        if isinstance(outcome.error, SwathError):
            raise outcome.error
        how = f"{type(outcome.error).__name__}: {outcome.error}"
    else:
        how = outcome.how
    raise UnfinishedError(f"{failed}: {one_line(how, '')}")

"""A function in one process of its own, which may crash, hang or take a GPU's memory with it: its
result, or an error of ours.

Judges how the process ended, knows nothing of what it computes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from pipeline.errors import SwathError, UnfinishedError
from pipeline.processes.sandbox import Limits, Outcome, Raised, Returned, sandboxed

T = TypeVar("T")
R = TypeVar("R")

LOOSE_BYTES = 1 << 50
"""Of address space, which CUDA takes freely; the plan has checked what is used of it."""


def apart(function: Callable[[T], R], item: T, limits: Limits, failed: str) -> R:
    """Function and item are as `sandboxed` wants them. Raises the function's own SwathError, and
    UnfinishedError, which begins with `failed`, for any other end."""
    with closing(sandboxed(function, [item], limits)) as outcomes:
        _, outcome = next(outcomes)
    return _judged(outcome, failed)


def _judged(outcome: Outcome[R], failed: str) -> R:
    if isinstance(outcome, Returned):
        return outcome.value
    if isinstance(outcome, Raised):
        if isinstance(outcome.error, SwathError):
            raise outcome.error
        how = f"{type(outcome.error).__name__}: {outcome.error}"
    else:
        how = outcome.how
    raise UnfinishedError(f"{failed}: {' '.join(how.split())}")

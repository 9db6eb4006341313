"""The result of work in another process, and how often that process has tried something again.

Imports nothing heavy: every process that reads headers imports it. Knows nothing of the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.storage.retry import tried_again

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Counted(Generic[T]):
    value: T
    process: int
    retries: int
    """Of the whole process until now: its threads cannot be told apart."""


def counted(work: Callable[[S], T], item: S) -> Counted[T]:
    value = work(item)
    return Counted(value, os.getpid(), tried_again())


def retries_of(results: Iterable[Counted[T]]) -> int:
    """Of all the processes but our own, which are counted here already."""
    last: dict[int, int] = {}
    for result in results:
        last[result.process] = max(result.retries, last.get(result.process, 0))
    last.pop(os.getpid(), None)
    return sum(last.values())

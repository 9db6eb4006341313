"""Where the start of a run goes: seconds by part, each second counted once."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

CHECKPOINT, HEADERS, PLAN, RAY, REPLICAS = "checkpoint", "headers", "plan", "ray", "replicas"
"""The parts of a start: the checkpoint is waited for, headers are read, the plan is made and
recorded, Ray starts, replicas load and the first unit begins."""


class Laps:
    """A stopwatch for the parts of a start, which may lie inside each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        """Part -> its seconds so far, without those of parts inside it."""
        self._open: list[str] = []
        self._since_s = 0.0

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Count the time inside the block as this part's."""
        self._count()
        self._open.append(part)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def _count(self) -> None:
        """Count the time since the last call for the innermost part."""
        now_s = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] += now_s - self._since_s
        self._since_s = now_s

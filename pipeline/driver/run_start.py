"""When a run started: by the wall clock, by this process's clock, and by its count of retries."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.storage.retry import retries_so_far


@dataclass(frozen=True)
class RunStart:
    """The start of a run: create it first."""

    when: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock_s: float = field(default_factory=time.monotonic)
    """The monotonic clock of this process."""
    retries: int = field(default_factory=retries_so_far)
    """Retries that this process had made before."""

    @property
    def name(self) -> str:
        """The name of the run's records in its output."""
        return self.when.strftime("%Y%m%dT%H%M%S.%fZ")

    def deadline(self, max_hours: float | None) -> float:
        """When the run has lasted this long, in seconds since 1970, the clock that all machines
        share; infinity without a limit."""
        return math.inf if max_hours is None else self.when.timestamp() + max_hours * 3600

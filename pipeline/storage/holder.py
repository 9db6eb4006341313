"""A driver: the process that hands out the work on an output. Plain values; knows no library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class LockHolder:
    """One that is at work. What a lock of an earlier version does not say is None."""

    host: str | None
    pid: int | None
    since: str | None
    """UTC, ISO 8601."""
    shards: str | None = None
    """Its share of the output, `I/N`; None: all of it."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """From what a lock says of its holder."""
        pid = str(fields.get("pid"))
        return cls(fields.get("host"), int(pid) if pid.isdecimal() else None, fields.get("since"))

    def __str__(self) -> str:
        """`node-7, process 4711, since 2026-01-01T00:00:00+00:00`."""
        parts = [self.host or "on an unknown machine"]
        parts += [f"process {self.pid}"] if self.pid is not None else []
        parts += [f"--shards {self.shards}"] if self.shards else []
        parts += [f"since {self.since}"] if self.since else []
        return ", ".join(parts)

"""The process that holds a lock on an output: what a lock records about it, and whether it lives.

Knows Linux's records of processes, and no store.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class LockHolder:
    """The process that holds a lock, as the lock describes it. What a lock of an earlier version
    does not say is None."""

    host: str | None
    pid: int | None
    since: str | None
    """UTC, ISO 8601."""
    shards: str | None = None
    """Its share of the output, `I/N`; None: all of it."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The holder that a lock's record describes."""
        pid = str(record.get("pid"))
        return cls(record.get("host"), int(pid) if pid.isdecimal() else None, record.get("since"))

    def __str__(self) -> str:
        """`node-7, process 4711, since 2026-01-01T00:00:00+00:00`."""
        parts = [self.host or "on an unknown machine"]
        parts += [f"process {self.pid}"] if self.pid is not None else []
        parts += [f"--shards {self.shards}"] if self.shards else []
        parts += [f"since {self.since}"] if self.since else []
        return ", ".join(parts)

    def busy_message(self, root: str) -> str:
        """What to tell a user whose run is refused because of this holder."""
        return f"{root}: another run is using this output ({self}); wait until it ends, or stop it"


def planning_message(root: str) -> str:
    """What to tell a user whose run waits for another driver's planning."""
    return f"{root}: another driver is planning; waiting for it"


def this_process() -> dict[str, str]:
    """The record of this process, for a lock that it takes now."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "since": since, **process_identity(os.getpid())}


def process_identity(pid: int) -> dict[str, str]:
    """The facts that identify a process, and tell where it can be looked up. Raises OSError if
    there is no such process."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return {
        "pid": str(pid),
        "started": stat.rpartition(")")[2].split()[19],
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
    }


def is_dead(record: Mapping[str, str]) -> bool:
    """Whether the process is known to be dead: it ran where this one does, and no longer does."""
    this = process_identity(os.getpid())
    if any(record.get(name) != this[name] for name in ("boot", "namespace")):
        return False
    try:
        return process_identity(int(record["pid"]))["started"] != record["started"]
    except (OSError, KeyError, ValueError):
        return True


def encode_lock(record: Mapping[str, str], beat: int) -> bytes:
    """The contents of a lock: its holder's record, and the number of the heartbeat."""
    return json.dumps({**record, "beat": str(beat)}).encode()


def decode_lock(lock: bytes) -> dict[str, str]:
    """The record in a lock; empty if it is damaged."""
    try:
        record = json.loads(lock)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}

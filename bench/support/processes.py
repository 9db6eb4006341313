"""The processes of a run, by what they do, and the peak memory of each.

A process belongs to the run if it carries the run's mark in its environment or was started by one
that does: Ray's workers write their titles over their environment.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PERIOD_S = 0.05
ROLES = {
    "ray::ReadUnitSource": "source",
    "ray::FlatMap(ReadStage)": "reader",
    "ray::read_with_limits": "reader",
    "ray::MapWorker(MapBatches(SegmentStage))": "replica",
    "ray::IsolatedReplicaActor": "replica",
    "ray::Write": "writer",
    "ray::publish_shard": "publisher",
    "ray::": "worker",
    "pipeline.processes.worker": "describing",
    "jobs.cli": "driver",
}
"""Part of a process's title -> what the process does. The first part that matches counts."""


@dataclass
class Process:
    pid: int
    roles: set[str] = field(default_factory=set)
    peak_bytes: int = 0
    """VmHWM: the peak of the resident memory, including what is shared with other processes."""


class Watch:
    """A context in which the processes of a run are sampled."""

    def __init__(self, variable: str, mark: str) -> None:
        self._mark = f"{variable}={mark}".encode()
        self._others: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.processes: dict[int, Process] = {}
        self.total_bytes = 0
        """The peak of the private memory of all processes together, plus the object store."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            alive = {int(name) for name in os.listdir("/proc") if name.isdecimal()}
            self._others &= alive
            own_bytes, shared_bytes = 0, 0
            for pid in sorted(alive - self._others):
                with suppress(OSError, ValueError, KeyError):  # it has just exited
                    own, shared = self._sample(pid)
                    own_bytes, shared_bytes = own_bytes + own, max(shared_bytes, shared)
            self.total_bytes = max(self.total_bytes, own_bytes + shared_bytes)

    def _sample(self, pid: int) -> tuple[int, int]:
        """Bytes that the process holds now: private ones, and those of the object store."""
        status = _status(pid)
        if pid not in self.processes:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if self._mark not in environment and int(status["PPid"]) not in self.processes:
                self._others.add(pid)
                return 0, 0
            self.processes[pid] = Process(pid)
        process = self.processes[pid]
        process.peak_bytes = max(process.peak_bytes, _bytes(status["VmHWM"]))
        process.roles.add(_role(pid))
        return _bytes(status["RssAnon"]), _bytes(status["RssShmem"])


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _bytes(kilobytes: str) -> int:
    return int(kilobytes.split(maxsplit=1)[0]) * 1024


def _role(pid: int) -> str:
    title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return next((role for part, role in ROLES.items() if part in title), "ray")

"""A machine's memory, divided: which processes run at the same time, and whether they fit.

Pure arithmetic over what each process needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UsageError
from pipeline.planning.machine import IO_CPUS, MIN_TASKS, TASK_CPUS, Machine, ray_cpus
from pipeline.planning.memory_need import MemoryNeed, reading_bytes, segmenting_bytes
from pipeline.planning.workload import Workload
from pipeline.unit import Unit

USABLE = 0.9
"""Usable fraction of a machine's memory: from 95 % on Ray kills workers, and the system needs some
itself."""
ROWS_PER_REPLICA = 4
"""Rows of the object store per replica: one being segmented, one waiting for it, and those being
read meanwhile."""
_RAY_BYTES = 1_000_000_000
"""Ray's own processes."""
_RAY_IDLE_BYTES = 100_000_000
"""An idle Ray worker; there is one for each CPU but IO_CPUS."""
_MIN_STORE_BYTES = 128 << 20
_STORE_USABLE = 0.8
"""Usable fraction of the object store: what exceeds it, Ray writes to disk, by processes that it
starts for that."""


@dataclass(frozen=True)
class MemoryBudget:
    """A machine's memory, divided among what runs at the same time."""

    need: MemoryNeed
    machine: Machine
    tasks: int
    """Reads and writes at the same time; 0: a plain loop does everything."""

    @classmethod
    def of(cls, need: MemoryNeed, machine: Machine) -> MemoryBudget | None:
        """The budget with as many of a pool's replicas, and of simultaneous reads and writes, as
        fit; None if too few fit. A cluster may grow: its nodes must hold what the pool starts with.
        """
        if machine.nodes_bytes:
            return cls(need, machine, machine.tasks) if _fits_nodes(need, machine) else None
        reserved_bytes = _reserved_bytes(machine.replicas * need.replica_bytes)
        for_ray = reserved_bytes // max(1, need.task_bytes) + 1
        fewest = min(machine.tasks, max(MIN_TASKS, for_ray))
        for tasks in range(machine.tasks, fewest - 1, -1):
            budget = cls(need, machine, tasks)
            if budget.total_bytes <= USABLE * machine.memory_bytes:
                return budget
        if machine.replicas == machine.required_replicas:
            return None
        return cls.of(need, replace(machine, replicas=machine.replicas - 1))

    @property
    def store_bytes(self) -> int:
        """Size of Ray's object store. It holds rows that were read, that wait for a replica or are
        being segmented, and their class ids."""
        rows = ROWS_PER_REPLICA * self.machine.replicas + self.tasks
        return max(_MIN_STORE_BYTES, math.ceil(rows * self.need.row_bytes / _STORE_USABLE))

    @property
    def cpus(self) -> int:
        """CPUs of the Ray that runs on this machine: no more than can work at the same time."""
        if self.machine.device == "cpu":
            return ray_cpus("cpu", self.machine.replicas)
        return math.ceil(self.tasks * TASK_CPUS)

    @property
    def schedulable_bytes(self) -> int:
        """Ray's logical memory for Ray Data: every replica always fits, and `tasks` tasks beside
        them."""
        replicas_bytes = self.machine.replicas * self.need.replica_bytes
        tasks_bytes = self.tasks * self.need.task_bytes
        return replicas_bytes + max(tasks_bytes, _reserved_bytes(replicas_bytes))

    @property
    def publishers(self) -> int:
        """Shards published at the same time: as many as the machine allows and as fit beside all
        other processes."""
        limit, publisher_bytes = self.machine.publishers, self.need.publisher_bytes
        if self.machine.nodes_bytes:
            return limit
        left_bytes = USABLE * self.machine.memory_bytes - self._bytes_without_publishers
        return max(1, min(limit, int(left_bytes // max(1, publisher_bytes))))

    @property
    def publishing_bytes(self) -> int:
        return self.publishers * self.need.publisher_bytes

    @property
    def total_bytes(self) -> int:
        """Predicted peak of the whole run on this machine."""
        if not self.tasks:
            return sum(self.own_bytes.values())
        return self._bytes_without_publishers + self.publishing_bytes

    @property
    def _bytes_without_publishers(self) -> int:
        replicas, tasks = self.machine.replicas, self.tasks
        workers_bytes = replicas * self.need.replica_bytes + tasks * self.need.task_bytes
        idle = max(replicas, self.cpus - IO_CPUS)
        ray_bytes = _RAY_BYTES + idle * _RAY_IDLE_BYTES
        return self.need.driver_bytes + workers_bytes + self.store_bytes + ray_bytes

    @property
    def own_bytes(self) -> dict[str, int]:
        """Predicted peak of one process of each kind, and of the object store that they share."""
        need = self.need
        if self.machine.loop_process:
            return {"driver": need.publishing_driver_bytes, "replica": need.loop_bytes}
        if not self.tasks:
            return {"driver": need.local_bytes}
        return {
            "driver": need.driver_bytes,
            "replica": need.replica_bytes,
            "reader": need.reader_bytes,
            "writer": need.writer_bytes,
            "publisher": need.publisher_bytes,
            "object_store": self.store_bytes,
        }


def _fits_nodes(need: MemoryNeed, machine: Machine) -> bool:
    """Whether a joined cluster has room for every replica and one more task, however Ray places
    them, for Ray Data's reads, and a node for publishing, if need be after the replicas are gone.
    """
    if need.publisher_bytes > max(machine.nodes_bytes):
        return False
    slot_bytes = max(need.replica_bytes, need.task_bytes, 1)
    slots = sum(node_bytes // slot_bytes for node_bytes in machine.nodes_bytes)
    replicas_bytes = machine.required_replicas * need.replica_bytes
    needed_bytes = replicas_bytes + _reserved_bytes(replicas_bytes)
    return slots > machine.required_replicas and needed_bytes <= sum(machine.nodes_bytes)


def _reserved_bytes(replicas_bytes: int) -> int:
    """Memory beyond the replicas' without which Ray Data starts nothing: it reserves an eighth for
    reads and another eighth for writes, and what is left must hold the replicas."""
    return math.ceil(replicas_bytes / 3)


def budget_memory(
    workload: Workload, units: Sequence[Unit], remedy: str | None = None
) -> MemoryBudget:
    """Divide the machine's memory for these units. Raises UsageError if they do not fit."""
    need, machine = MemoryNeed.of(workload, units), workload.machine
    if not units:
        return MemoryBudget(need, machine, tasks=0)
    budget = MemoryBudget.of(need, machine)
    if budget is not None:
        return budget
    largest = max(
        units, key=lambda unit: reading_bytes(workload, unit) + segmenting_bytes(workload, unit)
    )
    block = largest.blocks[0]
    raise UsageError(
        f"{_shortage(need, machine)}; the largest unit is block {block.core} of {block.scene.url};"
        f" {remedy or 'use fewer --replicas or a machine with more memory'}"
    )


def _shortage(need: MemoryNeed, machine: Machine) -> str:
    """How much memory the smallest number of processes needs, and how much there is."""
    machine = replace(machine, replicas=machine.required_replicas)
    smallest = MemoryBudget(need, machine, min(machine.tasks, MIN_TASKS))
    replicas = f"{machine.replicas} replica{'s' if machine.replicas > 1 else ''}"
    if machine.nodes_bytes:
        nodes = ", ".join(_gb(node_bytes) for node_bytes in machine.nodes_bytes)
        return (
            f"{replicas} of {_gb(need.replica_bytes)}, a task of {_gb(need.task_bytes)} and one of"
            f" {_gb(need.publisher_bytes)} that publishes do not fit on the cluster's nodes"
            f" ({nodes} for processes)"
        )
    processes = ", ".join(f"{name} {_gb(size)}" for name, size in smallest.own_bytes.items())
    return (
        f"{_gb(smallest.total_bytes)} are needed with {replicas} ({processes}), but only"
        f" {_gb(USABLE * machine.memory_bytes)} of this machine's {_gb(machine.memory_bytes)} may"
        " be used"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"

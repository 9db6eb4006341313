"""A machine's memory, divided: which processes run at once, and whether that fits.

Pure arithmetic over what each of them takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import UsageError
from pipeline.planning.cost import Cost
from pipeline.planning.machine import IO_CPUS, LEAST_TASKS, TASK_CPUS, Machine, cpus_here
from pipeline.planning.memory_need import Need, segmenting
from pipeline.unit import Unit

USABLE = 0.9
"""Of a machine's memory: from 95 % on Ray kills workers, and the system has its share."""
ROWS_PER_REPLICA = 4
"""In the object store: one in work, one that waits for it, and what is read meanwhile."""
_RAY_BYTES, _RAY_IDLE_BYTES = 1_000_000_000, 100_000_000
"""Ray's own processes, and an idle worker for each CPU but IO_CPUS."""
_LEAST_STORE_BYTES = 128 << 20
_STORE_USABLE = 0.8
"""Of the object store: what is beyond, Ray writes to disk, by processes that it starts for that."""


@dataclass(frozen=True)
class Division:
    """A machine's memory, divided among what runs at once."""

    need: Need
    machine: Machine
    tasks: int
    """Reads and writes at once; 0: one process does everything."""

    @classmethod
    def of(cls, need: Need, machine: Machine) -> Division | None:
        """With as many of a pool's replicas and of reads and writes at once as fit; None where too
        few do. A cluster may grow: its nodes must hold what the pool begins with."""
        if machine.nodes_bytes:
            return cls(need, machine, machine.tasks) if _placed(need, machine) else None
        for_ray = _set_aside(machine.replicas * need.replica_bytes) // max(1, need.task_bytes) + 1
        least = min(machine.tasks, max(LEAST_TASKS, for_ray))
        for tasks in range(machine.tasks, least - 1, -1):
            division = cls(need, machine, tasks)
            if division.total_bytes <= USABLE * machine.memory_bytes:
                return division
        if machine.replicas == machine.fewest:
            return None
        return cls.of(need, replace(machine, replicas=machine.replicas - 1))

    @property
    def store_bytes(self) -> int:
        """Of Ray's object store: rows that are read, that wait for a replica, that one works on,
        and their class ids."""
        rows = ROWS_PER_REPLICA * self.machine.replicas + self.tasks
        return max(_LEAST_STORE_BYTES, math.ceil(rows * self.need.row_bytes / _STORE_USABLE))

    @property
    def cpus(self) -> int:
        """Ray's, where this machine is ours: no more than can work at a time."""
        if self.machine.device == "cpu":
            return cpus_here("cpu", self.machine.replicas)
        return math.ceil(self.tasks * TASK_CPUS)

    @property
    def schedulable_bytes(self) -> int:
        """Ray's logical resource, for Ray Data: every replica always fits, and beside them so many
        tasks."""
        replicas = self.machine.replicas * self.need.replica_bytes
        return replicas + max(self.tasks * self.need.task_bytes, _set_aside(replicas))

    @property
    def publishers(self) -> int:
        """Shards published at once: as many as there may be, and as fit beside all else."""
        most, each = self.machine.publishers, self.need.publisher_bytes
        if self.machine.nodes_bytes:
            return most
        left = USABLE * self.machine.memory_bytes - self._unpublished_bytes
        return max(1, min(most, int(left // max(1, each))))

    @property
    def publishing_bytes(self) -> int:
        return self.publishers * self.need.publisher_bytes

    @property
    def total_bytes(self) -> int:
        """Of this machine, at most."""
        if not self.tasks:
            return self.need.local_bytes
        return self._unpublished_bytes + self.publishing_bytes

    @property
    def _unpublished_bytes(self) -> int:
        """Of all but what publishes."""
        replicas, tasks = self.machine.replicas, self.tasks
        ours = replicas * self.need.replica_bytes + tasks * self.need.task_bytes
        ray = _RAY_BYTES + max(replicas, self.cpus - IO_CPUS) * _RAY_IDLE_BYTES
        return self.need.driver_bytes + ours + self.store_bytes + ray

    @property
    def own_bytes(self) -> dict[str, int]:
        """Of one process of each kind, and of the object store, which they share."""
        need = self.need
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


def _placed(need: Need, machine: Machine) -> bool:
    """Whether a joined cluster has room for every replica and one task more, however they fall,
    Ray Data for its reads, and a node for publishing, if need be when the replicas have gone."""
    if need.publisher_bytes > max(machine.nodes_bytes):
        return False
    slot = max(need.replica_bytes, need.task_bytes, 1)
    room = sum(node // slot for node in machine.nodes_bytes) > machine.fewest
    replicas_bytes = machine.fewest * need.replica_bytes
    return room and replicas_bytes + _set_aside(replicas_bytes) <= sum(machine.nodes_bytes)


def _set_aside(replicas_bytes: int) -> int:
    """Ray Data sets an eighth of the memory aside for reads and another one for writes, and lets
    neither begin where that does not leave the replicas theirs."""
    return math.ceil(replicas_bytes / 3)


def division_of(cost: Cost, units: Sequence[Unit], remedy: str | None = None) -> Division:
    """Raises UsageError where the units do not fit."""
    need, machine = Need.of(cost, units), cost.machine
    division = Division.of(need, machine) if units else Division(need, machine, tasks=0)
    if division is not None:
        return division
    unit = max(units, key=lambda unit: 2 * cost.row_bytes(unit) + segmenting(cost, unit))
    machine = replace(machine, replicas=machine.fewest)
    least = Division(need, machine, min(machine.tasks, LEAST_TASKS))
    replicas = f"{machine.replicas} replica{'s' if machine.replicas > 1 else ''}"
    if machine.nodes_bytes:
        has = ", ".join(_gb(node) for node in machine.nodes_bytes)
        what = (
            f"{replicas} of {_gb(need.replica_bytes)}, a task of"
            f" {_gb(need.task_bytes)} and one of {_gb(need.publisher_bytes)} that publishes do not"
            f" fit on the cluster's nodes ({has} for processes)"
        )
    else:
        each = ", ".join(f"{name} {_gb(size)}" for name, size in least.own_bytes.items())
        what = (
            f"{_gb(least.total_bytes)} are needed with {replicas} ({each}), but"
            f" only {_gb(USABLE * machine.memory_bytes)} of this machine's"
            f" {_gb(machine.memory_bytes)} may be used"
        )
    block = unit.blocks[0]
    raise UsageError(
        f"{what}; the largest unit is block {block.core} of {block.scene.url};"
        f" {remedy or 'use fewer --replicas or a machine with more memory'}"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"

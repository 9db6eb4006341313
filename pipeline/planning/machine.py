"""What runs the replicas: a kind of device, replicas, tasks, memory.

Knows what this machine has; what a cluster has is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from pipeline.errors import UsageError
from pipeline.processes.host import available_cores, available_memory_bytes
from pipeline.settings import LOCAL, Execution

TASK_CPUS = 0.5
"""CPUs requested by a read or write task, which mostly waits. Must differ from the replicas'
request, or Ray fuses the stages."""
MIN_TASKS = 2
"""A read and a write at the same time."""
REPLICAS_PER_GPU = 2
"""One computes while the other receives its next unit and hands over its last one."""
IO_CPUS = 2
"""CPUs in addition to those of CPU replicas, so that reads and writes never wait for an actor."""
TASKS_PER_PUBLISHER = 4
"""Publishing takes 5 to 9 ms of CPU per megapixel, reading and writing it a multiple of that."""
CPU_REPLICA_BYTES = 1_500_000_000
"""Memory to leave for each CPU replica; limits the default number of replicas."""
SHARED_BYTES = 4_000_000_000
"""Memory to leave for everything else on a machine with CPU replicas."""


@dataclass(frozen=True)
class Machine:
    """What runs the replicas: this machine, or the nodes of a Ray cluster that was joined."""

    device: str
    """The kind of device that replicas compute on: cpu or cuda."""
    replicas: int
    """Replicas at the same time; the largest number if the pool grows."""
    memory_bytes: int
    """Memory of this machine, or what its control group allows."""
    tasks: int
    """Reads and writes at the same time; 0: a plain loop does everything."""
    nodes_bytes: tuple[int, ...] = ()
    """Memory that each node of a joined Ray cluster gives to processes; empty: this machine does
    everything."""
    min_replicas: int | None = None
    """Replicas that a growing pool starts with; None: the pool does not grow."""
    sharing: int = 1
    """Replicas on one GPU."""
    loop_process: bool = False
    """Whether the one process that does everything is not the driver's."""

    @classmethod
    def of(
        cls,
        device: str,
        count: int,
        nodes_bytes: tuple[int, ...],
        execution: Execution,
        cpus: int = 0,
    ) -> Self:
        """Two replicas per GPU unless fewer are requested; on CPUs one per core, each with one
        thread.

        count: GPUs, or CPUs that replicas may take; cpus: those of a joined cluster. Raises
        UsageError if the replicas would leave no CPU for the reads of a joined cluster.
        """
        memory = available_memory_bytes()
        if execution.runner == LOCAL:
            return cls(device, 1, memory, tasks=0)
        drivers = execution.shards.of
        capacity = count if device == "cpu" else count * REPLICAS_PER_GPU
        if not nodes_bytes:
            if device == "cpu":
                in_memory = (memory - SHARED_BYTES) // CPU_REPLICA_BYTES
                capacity = max(1, min(capacity, in_memory))
            smallest, largest = execution.pool or (capacity, capacity)
            largest = max(smallest, min(largest, capacity))  # this machine does not grow
            tasks = concurrent_tasks(device, largest, ray_cpus(device, largest))
        else:
            per_driver = max(1, capacity // drivers)
            smallest, largest = execution.pool or (per_driver, per_driver)
            if device == "cpu" and smallest > capacity + 1:
                raise UsageError(
                    f"--replicas {smallest}: the CPUs of the cluster hold {capacity + 1} replicas"
                    f" beside a read; use --replicas {capacity}"
                )
            tasks = concurrent_tasks(device, largest, cpus / drivers)
        initial = smallest if smallest < largest else None
        # Ray packs halves of GPUs together: with one replica for each GPU, half of the GPUs would
        # be idle.
        one_per_gpu = largest * drivers <= count
        sharing = 1 if one_per_gpu or device == "cpu" else REPLICAS_PER_GPU
        return cls(device, largest, memory, tasks, nodes_bytes, initial, sharing)

    @property
    def alone(self) -> Self:
        """The machine as a plain loop uses it that has a process of its own."""
        return replace(self, replicas=1, tasks=0, min_replicas=None, sharing=1, loop_process=True)

    @property
    def required_replicas(self) -> int:
        """Replicas there must be room for."""
        return self.min_replicas or self.replicas

    @property
    def gpus_per_replica(self) -> float:
        return 1 / self.sharing if self.device == "cuda" else 0

    @property
    def publishers(self) -> int:
        """The largest number of shards published at the same time: one per node, or more if there
        are CPUs for many reads, and so for many pixels."""
        return max(1, len(self.nodes_bytes), self.tasks // TASKS_PER_PUBLISHER)


def ray_cpus(device: str, replicas: int) -> int:
    """CPUs of the Ray that runs on this machine. Replicas on GPUs take none: there, cores limit the
    reads."""
    return replicas + IO_CPUS if device == "cpu" else max(IO_CPUS, available_cores())


def concurrent_tasks(device: str, replicas: int, cpus: float) -> int:
    """Reads and writes for which Ray has CPUs beside the replicas."""
    left = cpus - (replicas if device == "cpu" else 0)
    return max(MIN_TASKS, round(left / TASK_CPUS))


def can_work(resources: Mapping[str, float]) -> bool:
    """Whether a node with these Ray resources can run a task or a replica."""
    return bool(resources.get("CPU") or resources.get("GPU"))

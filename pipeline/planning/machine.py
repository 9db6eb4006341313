"""What runs the replicas: cores and memory. Knows the system's own records of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.processes.host import cores_here, memory_here
from pipeline.settings import Execution

TASK_CPUS = 0.5
"""Of a read or a write: they mostly wait. Differs from the replicas', else Ray fuses the stages."""
LEAST_TASKS = 2
"""A read and a write at once."""
REPLICAS_PER_GPU = 2
"""One computes while the other is handed its next unit and hands over the last one."""
IO_CPUS = 2
"""Beyond those of the replicas on CPUs, so that reads and writes never wait for an actor."""
TASKS_PER_PUBLISHER = 4
"""Publishing takes 5 to 9 ms of CPU per megapixel, reading and writing it a multiple of that."""


CPU_REPLICA_BYTES, SHARED_BYTES = 1_500_000_000, 4_000_000_000
"""No more replicas on a machine's CPUs than leave each this much, and this to all else."""


@dataclass(frozen=True)
class Machine:
    """What runs the replicas."""

    device: str
    replicas: int
    """At most, where the pool grows."""
    memory_bytes: int
    """Of this machine, or what its control group leaves to it."""
    tasks: int
    """Reads and writes at once; 0: one process does everything."""
    nodes_bytes: tuple[int, ...] = ()
    """What each node of a joined Ray cluster gives to processes; none: this machine does it all."""
    least: int | None = None
    """Replicas that a pool begins with; None: it does not grow."""
    sharing: int = 1
    """Replicas on one GPU."""

    @property
    def fewest(self) -> int:
        """Replicas there must be room for."""
        return self.least or self.replicas

    @property
    def gpus_per_replica(self) -> float:
        return 1 / self.sharing if self.device == "cuda" else 0

    @property
    def publishers(self) -> int:
        """Shards that may be published at once: one for each node, or more where there are CPUs
        for many reads, and so for many pixels."""
        return max(1, len(self.nodes_bytes), self.tasks // TASKS_PER_PUBLISHER)


def machine_of(
    device: str, count: int, nodes_bytes: tuple[int, ...], execution: Execution, cpus: int = 0
) -> Machine:
    """Two replicas per GPU, unless fewer are asked for; on CPUs one per core, each with one thread.
    count: for how many there is room; cpus: of a joined cluster.

    Raises UsageError where replicas would leave the reads of a joined cluster no CPU.
    """
    memory = memory_here()
    if execution.runner == "local":
        return Machine(device, 1, memory, tasks=0)
    if not nodes_bytes:
        if device == "cpu":
            count = max(1, min(count, (memory - SHARED_BYTES) // CPU_REPLICA_BYTES))
        least, most = execution.pool or (count, count)
        most = max(least, min(most, count))  # this machine does not grow
        tasks = tasks_at_once(device, most, cpus_here(device, most))
    else:
        share = max(1, count // execution.shards.of)
        least, most = execution.pool or (share, share)
        if device == "cpu" and least > count + 1:
            raise UsageError(
                f"--replicas {least}: the CPUs of the cluster hold {count + 1} replicas beside a"
                f" read; use --replicas {count}"
            )
        tasks = tasks_at_once(device, most, cpus / execution.shards.of)
    pool = least if least < most else None
    # Ray puts halves of GPUs together: with one replica for each GPU, half of them would be idle.
    alone = most * execution.shards.of <= count // REPLICAS_PER_GPU
    sharing = 1 if alone or device == "cpu" else REPLICAS_PER_GPU
    return Machine(device, most, memory, tasks, nodes_bytes, pool, sharing)


def cpus_here(device: str, replicas: int) -> int:
    """Replicas on GPUs take none: what decides there is how many cores read."""
    return replicas + IO_CPUS if device == "cpu" else max(IO_CPUS, cores_here())


def tasks_at_once(device: str, replicas: int, cpus: float) -> int:
    """Reads and writes for which there are Ray CPUs beside the replicas."""
    left = cpus - (replicas if device == "cpu" else 0)
    return max(LEAST_TASKS, round(left / TASK_CPUS))


def can_work(resources: Mapping[str, float]) -> bool:
    """Whether something of ours can run on a node with these of Ray's."""
    return bool(resources.get("CPU") or resources.get("GPU"))

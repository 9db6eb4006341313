"""The cores and the memory that this process may use. Knows the system's own records of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """That this process may run on, or as many whole ones as fit into its control groups' quota."""
    cores = float(len(os.sched_getaffinity(0)))
    for group in _control_groups(root, "cpu"):
        quota = _words(group / "cpu.max")
        quota = quota or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0].isdecimal():  # else max, or -1: none
            cores = min(cores, int(quota[0]) / int(quota[1]))
    return max(1, int(cores))


def available_memory_bytes(root: Path = Path("/")) -> int:
    """Bytes of this machine, or what its control groups (version 1 or 2) leave to this process.

    A group's limit holds for those within it; inside a container its own group is at the top.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _control_groups(root, "memory"):
        limits = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        sizes += [int(limit) for limit in limits if limit.isdecimal()]  # max: there is none
    return min(sizes)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups that this process is in, and of those around them."""
    top = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            folder = top / path.strip("/")
        elif controller in controllers.split(","):
            folder = top / controller / path.strip("/")
        else:
            continue
        yield folder
        yield from folder.parents


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []

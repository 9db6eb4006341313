"""The cores and the memory available to this process, by its CPU affinity and the limits of its
control groups (versions 1 and 2). Knows nothing of other processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_cores(root: Path = Path("/")) -> int:
    """The number of cores available to this process: its CPU affinity, capped by the quotas of its
    control groups, rounded down, and at least 1. `root` is for tests."""
    cores = float(len(os.sched_getaffinity(0)))
    for group in _control_groups(root, "cpu"):
        quota = _words(group / "cpu.max")
        quota = quota or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0].isdecimal():  # else `max` or -1: no quota
            cores = min(cores, int(quota[0]) / int(quota[1]))
    return max(1, int(cores))


def available_memory_bytes(root: Path = Path("/")) -> int:
    """The memory of this machine, or the smallest limit of this process's control groups.

    A group's limit also applies to the groups inside it; in a container, the container's own group
    is the outermost.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _control_groups(root, "memory"):
        limits = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
        sizes += [int(limit) for limit in limits if limit.isdecimal()]  # `max`: no limit
    return min(sizes)


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, and of the groups around them."""
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

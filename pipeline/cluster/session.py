"""The Ray cluster of a run: one that is joined, or one that is started on this machine.

Knows how to get there and what is there; nothing of what runs on it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import ray
from ray._private.services import find_bootstrap_address
from ray.exceptions import RayError

from pipeline.cluster.ray_environment import (
    joining_variables,
    loopback_only,
    ray_variables,
    starting_variables,
    without_greeting,
)
from pipeline.errors import UnfinishedError, UsageError, one_line
from pipeline.planning.machine import IO_CPUS, can_work
from pipeline.processes.endpoint import check_listening

PUBLISHING_CPUS = 1
"""CPUs in addition to those of the stages, for all tasks that publish: they request next to
nothing."""


class ClusterDevices(NamedTuple):
    """What the living nodes of a cluster offer to replicas."""

    kind: str
    """The kind of device that replicas compute on: cpu or cuda."""
    number: int
    """GPUs, or CPUs that replicas may take."""
    nodes_bytes: tuple[int, ...]
    """Memory that each node gives to processes."""
    cpus: int
    """All CPUs."""


@contextmanager
def connected(
    address: str | None, cpus: int = 0, memory_bytes: int = 0, store_bytes: int = 0
) -> Iterator[None]:
    """Join the cluster at the address; without an address, start one on this machine and end it
    afterwards.

    The other arguments are for a cluster started here: the CPUs (not counting those for publishing)
    and the memory that processes may request together, and the size of the object store. Raises
    UsageError if no cluster answers, or if it refuses this process; UnfinishedError if none can be
    started.
    """
    address = _resolve(address)
    with (
        ray_variables(joining_variables() if address else starting_variables()),
        loopback_only(address),
        _session(address, cpus, memory_bytes, store_bytes),
    ):
        yield


@contextmanager
def _session(address: str | None, cpus: int, memory_bytes: int, store_bytes: int) -> Iterator[None]:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            check_listening(address)  # Ray itself would try for minutes
        with without_greeting():
            ray.init(
                address=address or "local",
                num_cpus=None if address else cpus + PUBLISHING_CPUS,
                include_dashboard=None if address else False,
                object_store_memory=None if address else store_bytes,
                _memory=None if address else memory_bytes,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, ValueError, ImportError, RuntimeError, RayError) as error:
        ray.shutdown()  # whatever has been started
        if address is None:
            raise UnfinishedError(_why_not_started(error)) from error
        raise UsageError(f"--address {address}: {_why_not_joined(error)}") from error
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's would end the process at once
    try:
        yield
    finally:
        ray.shutdown()


def devices_of(address: str) -> ClusterDevices:
    """What the nodes of a cluster offer to replicas now.

    Raises UsageError if no node can work now, and as `connected`.
    """
    with connected(address):
        living = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [resources for resources in living if can_work(resources)]
    if not nodes:
        raise UsageError(
            f"--address {address}: the cluster has no CPU and no GPU now; start a worker first"
        )
    nodes_bytes = tuple(int(node["memory"]) for node in nodes if "memory" in node)
    gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    if gpus:
        return ClusterDevices("cuda", gpus, nodes_bytes, cpus)
    return ClusterDevices("cpu", max(1, cpus - IO_CPUS), nodes_bytes, cpus)


def _resolve(address: str | None) -> str | None:
    """The address; for "auto" that of the cluster whose job this process is, or of the last cluster
    started here."""
    if address != "auto":
        return address
    return os.environ.get("RAY_ADDRESS") or find_bootstrap_address(None) or address


def _why_not_started(error: Exception) -> str:
    why, remedy = one_line(error, ""), ""
    if "AF_UNIX" in why:
        remedy = "; name a shorter folder by RAY_TMPDIR"
    elif isinstance(error, OSError):
        remedy = "; name a folder that can be written to by RAY_TMPDIR"
    return f"Ray cannot be started on this machine: {why}{remedy}"


def _why_not_joined(error: Exception) -> str:
    why = one_line(error, "")
    if "Version mismatch" in why:
        return f"{why}; use the cluster's Ray and Python here, too"
    # If the token is wrong, Ray says no more than that it could not connect.
    return (
        f"no Ray cluster answers there ({why}); start one with `ray start --head`, or leave"
        " --address out to use this machine; if one runs, RAY_AUTH_TOKEN must be its token"
    )

"""The Ray cluster of a run: one that is joined, or one that is started on this machine.

Knows how to get there and what is there; nothing of what runs on it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants
from ray._private.services import find_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import RayError

from pipeline.errors import UnfinishedError, UsageError, one_line
from pipeline.planning.machine import IO_CPUS, REPLICAS_PER_GPU, can_work

KNOCK_S = 5.0
PUBLISHING_CPUS = 1
"""And for the tasks that publish, which ask for next to nothing, all together."""
IDLE_S = 600
"""After which a process without work is ended; there are never more than can work at a time."""
_GREETING = b"Set ray log level from environment variable"
"""Ray's core says so on fd 2 before the level holds that it speaks of; there is no switch for it
(2.60, src/ray/util/logging.cc, InitSeverityThreshold)."""
_JOINED = {"RAY_gcs_server_port_wait_time_s": "1"}
"""Tries, whatever its name says, of some 35 s each, at a cluster that takes connections but does
not answer as one (2.60, Node._init_gcs_client); it would be 20 of them."""
_LOOPBACK = ("127.0.0.1", "localhost")


@contextmanager
def connected(
    address: str | None, cpus: int = 0, memory_bytes: int = 0, store_bytes: int = 0
) -> Iterator[None]:
    """Joins the cluster at the address; without one, starts one here and ends it afterwards, which
    lets processes ask for so many CPUs, those that publish not counted, and `memory_bytes`
    together, and has an object store of `store_bytes`.

    Raises UsageError where no cluster answers, or it takes nobody of our kind.
    """
    address = _found(address)
    with (
        _variables(_JOINED if address else _alone_on_this_machine()),
        _loopback(address),
        _session(address, cpus, memory_bytes, store_bytes),
    ):
        yield


@contextmanager
def _session(address: str | None, cpus: int, memory_bytes: int, store_bytes: int) -> Iterator[None]:
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None:
            _knock(address)
        with _no_greeting():
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
        ray.shutdown()  # of what it has got to
        if address is None:
            why = one_line(error, "")
            remedy = "; name a shorter folder by RAY_TMPDIR" if "AF_UNIX" in why else ""
            raise UnfinishedError(
                f"Ray cannot be started on this machine: {why}{remedy}"
            ) from error
        raise UsageError(f"--address {address}: {_why_not(error)}") from error
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's would end the process at once
    try:
        yield
    finally:
        ray.shutdown()


def devices_of(address: str) -> tuple[str, int, tuple[int, ...], int]:
    """The kind of device that a cluster's replicas use, for how many there is room, the bytes that
    each node gives to processes, and the CPUs.

    Raises UsageError where no node can work now.
    """
    with connected(address):
        living = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in living if can_work(node)]
    if not nodes:
        raise UsageError(
            f"--address {address}: the cluster has no CPU and no GPU now; start a worker first"
        )
    nodes_bytes = tuple(int(node["memory"]) for node in nodes if "memory" in node)
    gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    if gpus:
        return "cuda", gpus * REPLICAS_PER_GPU, nodes_bytes, cpus
    return "cpu", max(1, cpus - IO_CPUS), nodes_bytes, cpus


def _alone_on_this_machine() -> dict[str, str]:
    """Variables that Ray reads: nobody else may use our cluster, it says nothing of itself, and
    keeps its processes."""
    return {
        # Ray's core writes "errors" to our stderr where nothing is wrong (ray#53727).
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # A token for this run alone: Ray, which wants one, would leave its own in the home folder.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray ends processes that had nothing to do for a second, and starting another one took up
        # to 12 s on a loaded machine: replicas waited for reads that waited for a process.
        "RAY_idle_worker_killing_time_threshold_ms": str(IDLE_S * 1000),
    }


@contextmanager
def _variables(missing: dict[str, str]) -> Iterator[None]:
    """Sets the variables that are not set; at the end, Ray's are as they were before.

    A process may run one job here and the next one on a cluster with a token of its own.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update(missing | before)
    _reread()
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)
        _reread()


def _reread() -> None:
    """Ray's core keeps what it has read of the variables, and the token, for good."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _loopback(address: str | None) -> Iterator[None]:
    """Lets Ray listen on loopback alone where no address is given, and take one on loopback as it
    is: it would try another address of this machine, where perhaps nobody listens, for minutes.

    False is Ray's own way to say so (ray#18730): as the address of a node, 127.0.0.1 would be
    replaced by a reachable one.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    if address is None or _host_port(address)[0] in _LOOPBACK:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _no_greeting() -> Iterator[None]:
    """Passes on what is written to fd 2 at the end of the block, without Ray's greeting.

    By way of a file: a pipe would end whoever has inherited it and writes to it later.
    """
    with tempfile.TemporaryFile() as aside:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(aside.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            aside.seek(0)
            with open(2, "wb", closefd=False) as passed_on:
                passed_on.writelines(line for line in aside if _GREETING not in line)


def _why_not(error: Exception) -> str:
    what = one_line(error, "")
    if "Version mismatch" in what:
        return f"{what}; use the cluster's Ray and Python here, too"
    # Of a wrong token Ray says no more than that it could not connect.
    return (
        f"no Ray cluster answers there ({what}); start one with `ray start --head`, or leave"
        " --address out to use this machine; if one runs, RAY_AUTH_TOKEN must be its token"
    )


def _found(address: str | None) -> str | None:
    """Where "auto" is: the cluster of the job that we are, or the last one started here."""
    if address != "auto":
        return address
    return os.environ.get("RAY_ADDRESS") or find_bootstrap_address(None) or address


def _knock(address: str) -> None:
    """Raises OSError at once where nobody listens: Ray itself would try for minutes."""
    host, port = _host_port(address)
    if port.isdecimal():
        socket.create_connection((host, int(port)), KNOCK_S).close()


def _host_port(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition("://")[2].partition(":")
    return host, port

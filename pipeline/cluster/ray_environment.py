"""Ray's switches for the time that a run is connected: variables, listening on loopback, and its
greeting.

All of them are Ray's own and undocumented, so each names its version, file or issue.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from pipeline.processes.endpoint import host_and_port

IDLE_S = 600
"""Time after which a process without work is ended; there are never more than can work at a
time."""
_GREETING = b"Set ray log level from environment variable"
"""Ray's core says so on fd 2 before the level that it speaks of is in force; there is no switch for
it (2.60, src/ray/util/logging.cc, InitSeverityThreshold)."""
_LOOPBACK = ("127.0.0.1", "localhost")


def joining_variables() -> dict[str, str]:
    """Variables that Ray reads when this process joins a cluster."""
    # Whatever its name says, the number of tries, of some 35 s each, at a cluster that accepts
    # connections but does not answer as one (2.60, Node._init_gcs_client); it would be 20 of them.
    return {"RAY_gcs_server_port_wait_time_s": "1"}


def starting_variables() -> dict[str, str]:
    """Variables that Ray reads when it is started here: nobody else may use this cluster, it says
    nothing of itself, and it keeps its processes."""
    return {
        # Ray's core writes "errors" to our stderr when nothing is wrong (ray#53727).
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # A token for this run alone: Ray, which wants one, would leave its own in the home folder.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray ends processes that had nothing to do for a second, and starting another one took up
        # to 12 s on a loaded machine: replicas waited for reads that waited for a process.
        "RAY_idle_worker_killing_time_threshold_ms": str(IDLE_S * 1000),
        **_temporary_folder(),
    }


def _temporary_folder() -> dict[str, str]:
    """Python's own choice if TMPDIR names no folder that can be written to: Ray insists on it."""
    folder = os.environ.get("TMPDIR")
    if not folder or os.access(folder, os.W_OK | os.X_OK):
        return {}
    return {"RAY_TMPDIR": tempfile.gettempdir()}


@contextmanager
def ray_variables(defaults: dict[str, str]) -> Iterator[None]:
    """Set the variables that are not set yet; at the end, restore Ray's as they were before.

    A process may run one job here and the next one on a cluster with a token of its own.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.update(defaults | before)
    _make_ray_reread()
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ.update(before)
        _make_ray_reread()


def _make_ray_reread() -> None:
    """Make Ray's core read the variables, and the token, again: it keeps them for good."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def loopback_only(address: str | None) -> Iterator[None]:
    """Let Ray listen on loopback alone if no address is given, and use an address on loopback as it
    is: it would try another address of this machine, where perhaps nobody listens, for minutes.

    False is Ray's own way to say so (ray#18730): as the address of a node, 127.0.0.1 would be
    replaced by a reachable one.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    if address is None or host_and_port(address)[0] in _LOOPBACK:
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def without_greeting() -> Iterator[None]:
    """Hold back what is written to fd 2 until the end of the block, then pass it on without Ray's
    greeting.

    By way of a file: a pipe would end any process that has inherited it and writes to it later.
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

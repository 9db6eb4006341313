"""A Ray cluster of one node on loopback, with a dashboard and a token, as `ray start` makes it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import s3_server

TOKEN = "0123456789abcdef" * 4
_STARTS_WITHIN_S, _ENDS_WITHIN_S = 90, 10


@dataclass(frozen=True)
class Node:
    """A running node, as its clients know it."""

    dashboard: str
    """URL of the dashboard, where jobs are submitted."""
    address: str
    """Address for programs that join the cluster."""
    variables: Mapping[str, str]
    """Environment variables that a client needs."""


@contextmanager
def running(
    folder: Path, cpus: int, agent_port: int | None = None, programs: Path | None = None
) -> Iterator[Node]:
    """A node whose ports listen on loopback only, which Ray does if
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER is 0. programs: a folder to be first on its PATH."""
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment = {**variables, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment["PATH"] = os.pathsep.join([str(programs), *path] if programs else path)
    gcs, dashboard, agent = free_port(), free_port(), agent_port or free_port()
    command = [*s3_server.dying_with_parent(), "ray", "start", "--head", "--block"]
    command += ["--disable-usage-stats", f"--num-cpus={cpus}", "--memory=6000000000"]
    command += ["--object-store-memory=200000000", f"--port={gcs}", f"--temp-dir={folder}"]
    command += [f"--dashboard-port={dashboard}", "--node-ip-address=127.0.0.1"]
    # Another cluster on this machine may use the default port; then no agent here would start jobs.
    command.append(f"--dashboard-agent-listen-port={agent}")
    with (folder / "ray.log").open("wb") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log
        )
    node = Node(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", variables)
    try:
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not (answers(f"{node.dashboard}/api/version") and has_started(folder)):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError((folder / "ray.log").read_text()[-2000:])
            time.sleep(0.2)
        yield node
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:  # a failed test has left a job
            process.kill()
            process.wait()


def has_started(folder: Path) -> bool:
    """Whether the node has started; the dashboard answers earlier."""
    return "Ray runtime started" in (folder / "ray.log").read_text(errors="replace")


def answers(url: str) -> bool:
    """Whether the server at a URL answers a request with the token."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A port of this machine that no socket is bound to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

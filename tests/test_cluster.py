"""Joining or starting a Ray cluster, and the traces of that on the console and in the process."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipeline.api import run_request
from pipeline.cluster.ray_environment import ray_variables
from pipeline.cluster.session import devices_of
from pipeline.driver.plain_loop import PlainLoop
from pipeline.driver.request import Request
from pipeline.errors import UsageError
from pipeline.planning.machine import Machine, concurrent_tasks
from pipeline.settings import Execution, Settings
from pipeline.share import ALL_SHARDS, Share
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.archives import write_scene
from tests.support.clusters import TOKEN, another_cluster, token_variables

ALONE_THEN_JOINED = """
import os, sys
from pipeline.cluster.session import connected, devices_of

def variables():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}

if __name__ == "__main__":
    before = variables()
    with connected(None, 3, 1_000_000_000, 100_000_000):
        os.write(2, b"within\\n")
    assert variables() == before
    print(devices_of(sys.argv[1])[:2])
"""
REFUSED = """
import os, sys, ray
from pipeline.cluster.session import devices_of
from pipeline.errors import UsageError

address, ray.__version__, *tokens = sys.argv[1:]
for token in tokens:
    os.environ["RAY_AUTH_TOKEN"] = token
    try:
        devices_of(address)
    except UsageError as error:
        print(error)
"""
START = """
from pipeline.cluster.session import connected
from pipeline.errors import UnfinishedError

try:
    with connected(None, 3, 1_000_000_000, 100_000_000):
        pass
except UnfinishedError as error:
    print(error)
"""
PASSED_ON = """
import os, sys
from pipeline.cluster.ray_environment import without_greeting

try:
    with without_greeting():
        os.write(2, b"[I] logging.cc:303: Set ray log level from environment variable X to 3\\n")
        os.write(2, b"a trouble\\n")
        print("another", file=sys.stderr)
        raise ValueError
except ValueError:
    os.write(2, b"after\\n")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with another_cluster(num_cpus=4) as address:
        assert address.startswith("127.0.0.1:")
        yield address


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "-c", code, *arguments], {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env)


@pytest.mark.slow
@pytest.mark.ray
def test_a_process_that_had_a_cluster_of_its_own_joins_another(
    cluster: str, tmp_path: Path
) -> None:
    """It joins silently, with the token of the other one, and on loopback only."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    done = python(ALONE_THEN_JOINED, cluster, **variables)
    assert (done.stderr, done.stdout) == ("within\n", "('cpu', 2)\n")


@pytest.mark.ray
def test_a_wrong_token_and_a_wrong_version_of_ray_are_refused_with_a_remedy(cluster: str) -> None:
    """The remedy works in the same process: the version is compared once the token is right."""
    done = python(REFUSED, cluster, "9.9.9", "b" * 64, TOKEN, **token_variables(""))
    wrong_token, wrong_version = done.stdout.splitlines()
    assert wrong_token.startswith(f"--address {cluster}: ")
    assert "if one runs, RAY_AUTH_TOKEN must be its token" in wrong_token
    assert wrong_version.startswith(f"--address {cluster}: ")
    assert "Ray: 9.9.9" in wrong_version


@pytest.fixture
def open_cluster() -> Iterator[Cluster]:
    """A cluster without a token, which lives for a minute, and whose head has no CPUs."""
    # Ray's core, which may have joined a cluster with a token in this process, must read it again.
    with ray_variables({"RAY_AUTH_MODE": "disabled"}):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        try:
            yield cluster
        finally:
            cluster.shutdown()
            gc.collect()  # collects a socket that Ray leaves open: here, and not in the next test


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_nodes_without_cpus_and_gpus_do_not_count(
    open_cluster: Cluster, small_checkpoint: str, tmp_path: Path
) -> None:
    """A path that a working node does not see is a wrong argument, not an interruption."""
    archive = write_scene(tmp_path / "in" / "a.tif", 512, 512).parent
    descriptor = os.open(small_checkpoint, os.O_RDONLY)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 700)  # a free one, which no other process has
    private = f"/proc/self/fd/{high}"
    try:
        with pytest.raises(UsageError, match="has no CPU and no GPU now; start a worker first"):
            devices_of(open_cluster.address)
        open_cluster.add_node(num_cpus=5, memory=8_000_000_000)
        assert devices_of(open_cluster.address) == ("cpu", 3, (8_000_000_000,), 5)
        execution, out = Execution(address=open_cluster.address, replicas=1), tmp_path / "out"
        settings = Settings(window=128, stride=96)
        request = Request(
            [str(archive)],
            private,
            settings,
            execution,
            loop=PlainLoop(private, settings, DEFAULT_ACCESS),  # in this process
        )
        with pytest.raises(UsageError, match=r"does not see it; put it on a file system .* store$"):
            run_request(request, str(out))
    finally:
        os.close(high)
        os.close(descriptor)


@pytest.mark.parametrize(
    ("device", "replicas", "cpus", "tasks"),
    [
        ("cpu", 6, 8, 4),
        ("cpu", 2, 64, 124),
        ("cpu", 16, 4, 2),
        ("cuda", 8, 96, 192),
        ("cuda", 1, 0, 2),
    ],
)
def test_reads_and_writes_get_the_cpus_that_replicas_leave(
    device: str, replicas: int, cpus: int, tasks: int
) -> None:
    assert concurrent_tasks(device, replicas, cpus) == tasks


@pytest.mark.parametrize(("device", "count", "tasks"), [("cpu", 2, 4), ("cuda", 1, 32)])
def test_every_core_of_a_machine_with_gpus_reads(
    device: str, count: int, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr("pipeline.processes.host._control_groups", lambda *_: iter(()))
    assert Machine.of(device, count, (), Execution()).tasks == tasks


@pytest.mark.parametrize(
    ("replicas", "share", "gpus"),
    [
        (None, ALL_SHARDS, 0.5),  # two on each of four GPUs
        (4, ALL_SHARDS, 1),
        (5, ALL_SHARDS, 0.5),
        ((1, 8), ALL_SHARDS, 0.5),
        (None, Share(1, 2), 0.5),
        (2, Share(1, 2), 1),
    ],
)
def test_replicas_share_gpus_if_there_are_more_replicas_than_gpus(
    replicas: int | tuple[int, int] | None, share: Share, gpus: float
) -> None:
    execution = Execution(replicas=replicas, shards=share)
    machine = Machine.of("cuda", 4, (10**9,) * 4, execution, cpus=16)
    assert machine.gpus_per_replica == gpus
    assert Machine.of("cpu", 8, (), execution).gpus_per_replica == 0


@pytest.mark.ray
def test_a_temporary_folder_too_long_for_rays_sockets_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("long" * 30)))
    (message,) = python(START).stdout.splitlines()
    assert message.startswith("Ray cannot be started on this machine: ")
    assert message.endswith("; name a shorter folder by RAY_TMPDIR")


@pytest.mark.ray
def test_a_temporary_folder_that_cannot_be_written_to_is_refused_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/nonexistent")
    (message,) = python(START).stdout.splitlines()
    assert message.startswith("Ray cannot be started on this machine: ")
    assert message.endswith("; name a folder that can be written to by RAY_TMPDIR")


def test_other_messages_during_rays_greeting_are_passed_on() -> None:
    assert python(PASSED_ON).stderr == "a trouble\nanother\nafter\n"

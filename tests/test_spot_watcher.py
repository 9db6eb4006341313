"""The spot watcher, with a fake metadata service on loopback and nodes of a real Ray cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import ray
from ray._private.state import state
from ray.cluster_utils import Cluster

from deploy.notices import CLOUDS, Notice, Service

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
PREEMPTED = "/computeMetadata/v1/instance/preempted"
EVENTS, NAME = "/metadata/scheduledevents", "/metadata/instance/compute/name"
REQUIRED_HEADERS = {
    "latest": ("X-aws-ec2-metadata-token", "a-token", 401),
    "computeMetadata": ("Metadata-Flavor", "Google", 403),
    "metadata": ("Metadata", "true", 400),
}
"""The header that each cloud's service requires, its value, and the status code without it."""


class Metadata(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
        self._answer("a-token" if self.path == "/latest/api/token" and ttl else None, 400)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        header, value, refusal = REQUIRED_HEADERS[path.split("/")[1]]
        if self.headers.get(header) != value:
            self._answer(None, refusal)
        else:
            self._answer(self.server.answers.get(path), 404)  # type: ignore[attr-defined]

    def _answer(self, text: str | None, otherwise: int) -> None:
        self.send_response(otherwise if text is None else 200)
        self.end_headers()
        self.wfile.write((text or "").encode())

    def log_message(self, format: str, *args: Any) -> None:
        del format, args


FakeService = tuple[str, dict[str, str]]
"""The URL of a fake metadata service, and its answers by path."""


@pytest.fixture
def metadata() -> Iterator[FakeService]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    answers: dict[str, str] = {}
    server.answers = answers  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


def soon(seconds: float = 600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def aws_ends() -> dict[str, str]:
    return {ACTION: json.dumps({"action": "terminate", "time": f"{soon():%Y-%m-%dT%H:%M:%SZ}"})}


def azure_ends(resource: str = "worker_7", kind: str = "Preempt") -> dict[str, str]:
    event = {
        "EventId": "A-1",
        "EventStatus": "Scheduled",
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": [resource],
        "NotBefore": format_datetime(soon(), usegmt=True),
    }
    return {EVENTS: json.dumps({"DocumentIncarnation": 2, "Events": [event]}), NAME: "worker_7"}


ENDS: dict[str, Callable[[], dict[str, str]]] = {
    "aws": aws_ends,
    "gcp": lambda: {PREEMPTED: "TRUE\n"},
    "azure": azure_ends,
}
CALM: list[tuple[str, dict[str, str]]] = [
    ("aws", {}),
    ("gcp", {PREEMPTED: "FALSE"}),
    ("azure", {EVENTS: '{"DocumentIncarnation": 1, "Events": []}'}),
    ("azure", azure_ends(resource="worker_8")),
    ("azure", azure_ends(kind="Freeze")),
]


@pytest.mark.parametrize(
    ("cloud", "answers"), CALM, ids=[f"{cloud}-{n}" for n, (cloud, _) in enumerate(CALM)]
)
def test_a_quiet_service_gives_no_notice(
    metadata: FakeService, cloud: str, answers: dict[str, str]
) -> None:
    metadata[1].update(answers)
    assert CLOUDS[cloud][0](Service(metadata[0])) is None


@pytest.mark.parametrize(("cloud", "left_s"), [("aws", 600), ("gcp", 30), ("azure", 600)])
def test_a_notice_tells_the_seconds_left(metadata: FakeService, cloud: str, left_s: float) -> None:
    metadata[1].update(ENDS[cloud]())
    notice = CLOUDS[cloud][0](Service(metadata[0]))
    assert notice is not None
    assert notice.left_s == pytest.approx(left_s, abs=5)


def test_an_azure_event_that_has_started_leaves_no_time(metadata: FakeService) -> None:
    answers = azure_ends()
    event = json.loads(answers[EVENTS])
    event["Events"][0] |= {"EventStatus": "Started", "NotBefore": ""}
    metadata[1].update(answers | {EVENTS: json.dumps(event)})
    notice = Notice("Azure: Preempt of this machine", 0.0)
    assert CLOUDS["azure"][0](Service(metadata[0])) == notice


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, to which this process is connected."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # on loopback, for a minute
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        ray.init(address=started.address, log_to_driver=False)
        yield started
        ray.shutdown()
        started.shutdown()


@pytest.fixture
def busy_node(cluster: Cluster) -> Iterator[str]:
    """The id of a node that an actor keeps from stopping."""
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    @ray.remote(num_cpus=1, max_restarts=0)
    class Replica:
        def where(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    replica = Replica.remote()
    assert ray.get(replica.where.remote()) == node.node_id
    yield node.node_id
    ray.kill(replica)
    cluster.remove_node(node)


def spot(*words: str) -> list[str]:
    return [sys.executable, "-m", "deploy.spot", *words]


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line.removeprefix("spot: ").rstrip()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_notice_drains_the_node(metadata: FakeService, busy_node: str, cloud: str) -> None:
    url, answers = metadata
    answers.update(CALM[["aws", "gcp", "azure"].index(cloud)][1])
    command = spot("watch", cloud, "--metadata", url, "--every", "0.1", "--node-id", busy_node)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watcher:
        time.sleep(1)
        assert watcher.poll() is None
        assert state.get_draining_nodes() == {}
        answers.update(ENDS[cloud]())
        lines = list(lines_of(watcher))
    assert watcher.returncode == 0, lines
    assert lines[-1] == f"node {busy_node} takes no more work"
    (draining,) = state.get_draining_nodes().items()
    assert draining[0] == busy_node
    left_s = draining[1] / 1000 - time.time()
    assert left_s < (30 if cloud == "gcp" else 600)
    assert left_s > (0 if cloud == "gcp" else 500)


@pytest.mark.ray
@pytest.mark.slow
def test_a_recommendation_is_printed_and_followed_on_request(
    metadata: FakeService, busy_node: str
) -> None:
    url, answers = metadata
    answers[REBALANCE] = json.dumps({"noticeTime": "2026-11-25T21:30:00Z"})
    command = spot("watch", "aws", "--metadata", url, "--every", "0.1", "--node-id", busy_node)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watcher:
        assert next(lines_of(watcher)).startswith("AWS recommends leaving this spot instance; ")
        time.sleep(0.5)
        assert watcher.poll() is None
        watcher.kill()
    assert state.get_draining_nodes() == {}
    assert subprocess.run([*command, "--rebalance"], check=False).returncode == 0
    assert state.get_draining_nodes() == {busy_node: 0}


@pytest.mark.ray
@pytest.mark.slow
def test_an_idle_node_stops_when_it_is_drained(cluster: Cluster) -> None:
    """A pod that terminates need not wait any longer than this."""
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    command = spot("drain", "--seconds", "60", "--node-id", node.node_id)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, f"spot: node {node.node_id} has ended\n")
    (record,) = (n for n in ray.nodes() if n["NodeID"] == node.node_id)
    assert not record["Alive"]
    repeated = subprocess.run(command, capture_output=True, text=True, check=False)
    assert repeated.returncode == 0
    assert f"no Ray node {node.node_id} runs on this machine" in repeated.stderr
    cluster.remove_node(node)


@pytest.mark.ray
@pytest.mark.slow
def test_draining_a_busy_node_stops_waiting_in_time(busy_node: str) -> None:
    command = spot("drain", "--seconds", "8", "--node-id", busy_node)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == f"spot: node {busy_node} still works; its time is over\n"


def test_a_service_that_is_silent_for_a_while_is_polled_again(metadata: FakeService) -> None:
    """Its silence is reported once and it is polled again; then there is no node to drain."""
    url, answers = metadata
    answers[ACTION] = "no JSON"
    command = spot("watch", "aws", "--metadata", url, "--every", "0.1", "--node-id", "0" * 56)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watcher:
        lines = lines_of(watcher)
        assert next(lines).startswith("the metadata service gives no answer (Expecting value")
        answers.update(aws_ends())
        rest = list(lines)
    assert rest[0] == "the metadata service answers again"
    assert re.match(r"AWS will terminate this spot instance; (59\d|600) s are left", rest[1])
    assert rest[2].startswith(f"error: no Ray node {'0' * 56} runs on this machine")
    assert watcher.returncode == 1


def test_the_watcher_imports_neither_ray_nor_torch() -> None:
    """It runs for days and must take no memory from the node."""
    code = "import sys, deploy.spot; print(*{'ray', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.slow
def test_draining_is_an_error_if_the_cluster_does_not_answer(tmp_path: Path) -> None:
    """The process on this node looks like a raylet whose head is gone."""
    raylet = tmp_path / "raylet"
    raylet.symlink_to(sys.executable)
    flags = ["--gcs-address=127.0.0.1:1", f"--node_id={'1' * 56}"]
    words = [str(raylet), "-c", "import time; time.sleep(60)", *flags]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(words) as process:
        command = spot("drain", "--seconds", "2", "--node-id", "1" * 56)
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=60
        )
        process.kill()
    assert done.returncode == 1
    assert f"error: node {'1' * 56} cannot be drained" in done.stderr

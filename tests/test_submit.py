"""submit, jobs, logs and stop with a real dashboard, and what can go wrong with one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import click
import pytest

from jobs import package
from jobs.cluster_job import Job
from jobs.logs import follow_to_end
from jobs.option_types import Bands, Numbers, Replicas, Shards
from jobs.run import run
from jobs.submit import FORWARDED, forwarded, last_attempt, submit
from tests.support import ray_node
from tests.support.archives import write_scene
from tests.support.outputs import differences

ROOT = Path(__file__).parent.parent
OPTIONS = ["--window", "128", "--stride", "96", "--batch", "2", "--block", "512"]
Swath = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def node() -> Iterator[ray_node.Node]:
    folder = Path(tempfile.mkdtemp(prefix="swath-ray-", dir="/tmp"))  # a socket's path is short
    try:
        with ray_node.running(folder, cpus=3) as started:
            yield started
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def swath(node: ray_node.Node) -> Swath:
    """Run a command with the dashboard's address in its environment, which keywords override."""

    def command(*words: object, code: str = "", **variables: str | None) -> Any:
        program = ["-c", code] if code else ["-m", "jobs.cli"]
        environment = {**os.environ, **node.variables, "RAY_API_SERVER_ADDRESS": node.dashboard}
        environment |= {name: value or "" for name, value in variables.items()}
        return subprocess.run(
            [sys.executable, *program, *map(str, words)],
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return command


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("archive")
    write_scene(folder / "a b'c.tif", 700, 600)
    (folder / "text.tif").write_text("this is no image")
    return folder


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("swath: error: ")
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in last


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_can_be_followed_and_has_the_rows_of_a_local_run(
    swath: Swath, archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    words = [archive, "--checkpoint", small_checkpoint, *OPTIONS]
    out = tmp_path / "out"
    first = swath("submit", *words, "--output", out)
    assert first.returncode == 0, first.stderr
    job_id = first.stdout.strip()
    assert f"note: {out} is a path: every node of the cluster must see it\n" in first.stderr
    assert "note: the cluster has no GPU now; the job runs on its 3 CPUs\n" in first.stderr

    again = swath("submit", *words, "--output", out)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert f"{job_id} is running this already; nothing was submitted" in again.stderr

    followed = swath("logs", job_id, "--follow")
    assert followed.returncode == 3, followed.stdout + followed.stderr
    assert "2 planned: 1 done, 1 quarantined" in followed.stdout
    assert followed.stdout == swath("logs", job_id).stdout

    (job,) = (job for job in list_jobs(swath) if job["output"] == str(out))
    assert (job["id"], job["status"], job["exit_code"]) == (job_id, "quarantined", 3)
    assert job["settings"]["window"] == 128
    assert job["version"] == package.version()
    assert job_id in swath("jobs").stdout

    third = swath("submit", *words, "--output", out, "--follow")
    assert (third.returncode, third.stdout.splitlines()[0]) == (3, f"{job_id}-2")
    assert_refused(swath("stop", job_id), "has ended already (quarantined)", "submit it again")

    local = [*words, "--output", tmp_path / "local", "--runner", "local"]
    assert swath("run", *local).returncode == 3
    assert differences(tmp_path / "local", out) == []


def list_jobs(swath: Swath) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = json.loads(swath("jobs", "--format", "json").stdout)
    return jobs


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_that_cannot_run_says_why(swath: Swath, archive: Path, tmp_path: Path) -> None:
    words = [archive, "--checkpoint", tmp_path / "none", "--output", tmp_path / "out"]
    done = swath("submit", *words, "--follow")
    assert done.returncode == 2
    assert f"swath: error: {tmp_path / 'none'}" in done.stdout.splitlines()[-1]


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A `python` that has the standard library only."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare" / "bin" / "python"


def assert_one_line_on_python(output: str, python: Path, why: str) -> None:
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith(f"swath: error: {python} (Python 3.")
    assert f"cannot run Swath: {why}" in last
    assert "install Swath's dependencies for it, or put the Python that has them first" in last


def test_a_python_without_our_dependencies_says_so(bare_python: Path, tmp_path: Path) -> None:
    def job(python: Path | str, *path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-m", "jobs.on_cluster", "run", "in", "--checkpoint", "c", "--output", "out"],
            env={"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    done = job(bare_python)
    assert done.returncode == 2
    assert_one_line_on_python(done.stderr, bare_python, "No module named 'click'")
    (tmp_path / "torn" / "torch").mkdir(parents=True)
    half = "raise ImportError('libcudart.so.12: cannot open shared object file')"
    (tmp_path / "torn" / "torch" / "__init__.py").write_text(half)
    done = job(sys.executable, tmp_path / "torn")
    assert done.returncode == 2
    assert_one_line_on_python(done.stderr, Path(sys.executable), "libcudart.so.12: cannot open")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_whose_python_lacks_our_dependencies_says_so(
    swath: Swath, archive: Path, bare_python: Path, tmp_path: Path
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="swath-ray-", dir="/tmp"))
    words = ["submit", archive, "--checkpoint", "c", "--output", tmp_path / "out", "--follow"]
    try:
        with ray_node.running(folder, cpus=1, programs=bare_python.parent) as cluster:
            done = swath(*words, RAY_API_SERVER_ADDRESS=cluster.dashboard)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert_one_line_on_python(done.stdout, bare_python, "No module named 'click'")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_whose_agents_do_not_start_is_an_error_with_a_remedy(
    swath: Swath, archive: Path, tmp_path: Path
) -> None:
    """Their port is taken, as when two clusters share a machine."""
    folder = Path(tempfile.mkdtemp(prefix="swath-ray-", dir="/tmp"))
    code = "from jobs import cli, dashboard; dashboard._AGENT_S = 15.0; cli.main()"
    words = ["submit", archive, "--checkpoint", "c", "--output", tmp_path / "out"]
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            with ray_node.running(folder, cpus=1, agent_port=taken.getsockname()[1]) as cluster:
                done = swath(*words, code=code, RAY_API_SERVER_ADDRESS=cluster.dashboard)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 1, done.stderr
    assert "note: the cluster does not accept jobs yet; retrying\n" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"swath: error: --address {cluster.dashboard}: ")
    assert "own --dashboard-agent-listen-port" in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_on_loopback_is_joined(
    swath: Swath, node: ray_node.Node, archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    """Ray by itself would look for it at this machine's other address, and wait."""
    words = [archive, "--checkpoint", small_checkpoint, "--output", tmp_path / "out", *OPTIONS]
    started = time.monotonic()
    done = swath("run", *words, "--address", node.address)
    assert done.returncode == 3, done.stderr
    assert time.monotonic() - started < 100


@pytest.mark.ray
def test_an_unknown_job_id_is_refused(swath: Swath) -> None:
    """By a dashboard on loopback, which a proxy that is gone could not reach."""
    nowhere = "http://127.0.0.1:9"
    for words in (["logs", "swath-0"], ["logs", "swath-0", "--follow"], ["stop", "swath-0"]):
        done = swath(*words, http_proxy=nowhere, HTTP_PROXY=nowhere)
        assert_refused(done, "swath-0: the cluster at", "`swath jobs` lists them")


@pytest.mark.ray
def test_a_missing_or_wrong_token_is_refused(swath: Swath) -> None:
    missing = swath("jobs", RAY_AUTH_MODE=None, RAY_AUTH_TOKEN=None, HOME="/nonexistent")
    assert_refused(missing, "requires its cluster's token (none was given)", "RAY_AUTH_TOKEN")
    wrong = swath("jobs", RAY_AUTH_TOKEN="f" * 64)
    assert_refused(wrong, "requires its cluster's token (another one was given)", "RAY_AUTH_TOKEN")


@pytest.mark.ray
def test_a_token_alone_is_enough(swath: Swath) -> None:
    assert swath("jobs", RAY_AUTH_MODE=None).returncode == 0


@pytest.mark.ray
def test_a_cluster_of_another_ray_version_is_refused(swath: Swath, tmp_path: Path) -> None:
    code = "import sys, ray; ray.__version__ = '2.58.1'; from jobs.cli import main; main()"
    words = ["submit", "s3://a/in", "--checkpoint", "s3://a/c", "--output", tmp_path / "out"]
    assert_refused(
        swath(*words, code=code), "runs Ray 2.", "Ray 2.58.1 is installed here", "install ray==2."
    )


@pytest.mark.ray
def test_the_address_option_takes_precedence_over_the_variables(
    swath: Swath, node: ray_node.Node
) -> None:
    unused_url = f"http://127.0.0.1:{ray_node.free_port()}"
    done = swath("jobs", "--address", node.dashboard, RAY_API_SERVER_ADDRESS=unused_url)
    assert done.returncode == 0, done.stderr
    second = {"RAY_API_SERVER_ADDRESS": None, "RAY_ADDRESS": node.dashboard}
    assert swath("jobs", **second).returncode == 0
    assert_refused(
        swath("jobs", RAY_API_SERVER_ADDRESS=unused_url), unused_url, "no Ray dashboard answers"
    )


def outside(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside any cluster."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, words)],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_address_is_required_and_must_be_a_url() -> None:
    assert_refused(outside("jobs"), "--address: which cluster?", "RAY_API_SERVER_ADDRESS")
    for address in ("127.0.0.1:6379", "auto", "ray://127.0.0.1:10001"):
        assert_refused(outside("jobs", "--address", address), "not the URL of a Ray dashboard")


def test_an_address_without_a_dashboard_is_refused() -> None:
    done = outside("jobs", "--address", f"http://127.0.0.1:{ray_node.free_port()}")
    assert_refused(done, "no Ray dashboard answers there", "Connection refused")
    assert_refused(
        outside("jobs", "--address", "http://nowhere.invalid:8265"), "no Ray dashboard answers"
    )
    with web_server() as url:
        assert_refused(outside("jobs", "--address", url), "no Ray dashboard answers")


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web_server() -> Iterator[str]:
    """Serve a page for every request, and yield the URL."""
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_dashboard_that_does_not_answer_times_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jobs import dashboard  # noqa: PLC0415
    from pipeline.errors import UsageError  # noqa: PLC0415

    monkeypatch.setattr(dashboard, "_ANSWER_S", 1)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UsageError, match=r"no Ray dashboard answers there .*timed out"):
            dashboard.Dashboard(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_credentials_are_not_sent() -> None:
    words = [
        "--checkpoint",
        "s3://a/c",
        "--output",
        "s3://a/out",
        "--address",
        "http://127.0.0.1:1",
    ]
    signed = outside("submit", "https://a/b.tif?X-Amz-Signature=abc", *words)
    assert_refused(signed, "holds a credential")
    assert "abc" not in signed.stderr
    secret = outside("submit", "s3://a/in", *words, "--storage-options", '{"secret": "abc"}')
    assert_refused(secret, "looks like a credential")


WRITTEN = {Bands: "4,3,2", Numbers: "0.1,1e-05", Replicas: "2:8", Shards: "1/4"}
EXAMPLES = {click.STRING: "x' $y", click.INT: 512, click.FLOAT: 0.5, click.BOOL: True}


def test_run_parses_the_forwarded_options_as_submit_did() -> None:
    """This covers every option of `run`, future ones included."""
    words = ["https://a/b c.tif", "s3://a/in"]
    for parameter in FORWARDED:
        if isinstance(parameter, click.Option):
            words += [parameter.opts[0]] if parameter.is_flag else example(parameter)
    with submit.make_context("submit", list(words)) as ctx:
        passed = forwarded(ctx, ctx.params)
        submitted = dict(ctx.params)
    with run.make_context("run", passed) as ctx:
        names = {parameter.name for parameter in FORWARDED}
        assert {name: ctx.params[name] for name in names} == {
            name: submitted[name] for name in names
        }


JOB = 'inputs = ["s3://a/in"]\ncheckpoint = "s3://a/c"\noutput = "s3://a/out"\naddress = "auto"\n'


def test_the_address_and_runner_of_a_job_file_are_not_forwarded(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(f'{JOB}runner = "ray"\n')
    with submit.make_context("submit", ["--job", str(file)]) as ctx:
        assert ctx.params["dashboard"] is None
        assert ctx.params["output"] == "s3://a/out"
        assert not {"auto", "ray"} & set(forwarded(ctx, ctx.params))
    file.write_text(f'{JOB}runner = "local"\n')
    refused = outside("submit", "--job", file)
    assert_refused(refused, f'{file}, line 5: runner = "local": a submitted job runs on Ray')


def test_the_last_attempt_has_the_highest_number() -> None:
    others = ["swath-b", "swath-a1", "swath-a-b", "swath-a-2-3"]
    assert last_attempt("swath-a", others) == 0
    assert last_attempt("swath-a", [*others, "swath-a"]) == 1
    assert last_attempt("swath-a", [*others, "swath-a-10", "swath-a-9"]) == 10  # some are deleted


class CutStreams:
    """A cluster behind a proxy that ends every stream early."""

    text = "one\ntwo\nthree\nfour\n"

    def __init__(self, *streams: str) -> None:
        self.streams = list(streams)

    def follow(self, job_id: str, write: Callable[[str], object]) -> None:
        assert job_id
        for line in self.streams.pop(0).splitlines(keepends=True):
            write(line)

    def job(self, job_id: str) -> Job:
        status = "RUNNING" if self.streams else "FAILED"
        return Job(job_id, status, "out", 0, None, None if self.streams else 3, "", "1", {})

    def log(self, job_id: str) -> str:
        assert job_id
        return self.text


def test_a_log_stream_that_ends_early_is_followed_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.logs._AGAIN_S", 0)
    cluster: Any = CutStreams("one\ntwo\n", "one\n", "one\ntwo\nthree\n")
    assert follow_to_end(cluster, "swath-a") == 3
    assert capsys.readouterr() == (CutStreams.text, "")


def example(option: click.Option) -> list[str]:
    if isinstance(option.type, click.Choice):
        return [option.opts[0], str(option.type.choices[0])]
    if type(option.type) in WRITTEN:
        return [option.opts[0], WRITTEN[type(option.type)]]
    if option.name in ("checkpoint", "output"):
        return [option.opts[0], "s3://a/x y"]
    return [option.opts[0], str(EXAMPLES.get(option.type, 7))]


@pytest.mark.slow
def test_the_package_sent_holds_the_code_of_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    for name in ("segformer", "pipeline", "jobs", "deploy"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    sent = package.write_package(tmp_path)
    # The code that starts clusters is not sent to one.
    code = {name for name in contents(wheel) if name.endswith(".py") and name[:7] != "deploy/"}
    assert {name for name in contents(sent) if name.endswith(".py")} == code
    assert all(contents(sent)[name] == contents(wheel)[name] for name in code)
    assert sent.stat().st_size < 500_000
    assert package.write_package(tmp_path).read_bytes() == sent.read_bytes()


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}

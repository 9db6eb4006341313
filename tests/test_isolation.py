"""What is said of a unit that got no outcome, and of replicas that cannot be loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import ray.exceptions
from ray.exceptions import RayTaskError

import pipeline.api
import pipeline.cluster.isolation
from pipeline.api import run
from pipeline.cluster.isolation import IsolatedReplica, segment_in_isolation
from pipeline.cluster.replica_actor import LOADING_DEATHS
from pipeline.cluster.session import connected
from pipeline.driver.local import LocalRunner
from pipeline.driver.tracker import Tracker
from pipeline.errors import CheckpointError, TransientError, UnfinishedError
from pipeline.failure import Failure
from pipeline.settings import Execution, Settings
from pipeline.stages import Work
from pipeline.unit import Unit
from tests.support.archives import write_scene

SETTINGS = Settings(window=64, stride=48, batch=2)


@pytest.fixture
def job(
    small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Work, Unit]:
    """What a run is about to do."""
    seen: list[tuple[Work, Unit]] = []

    def not_now(runner: LocalRunner, tracker: Tracker) -> None:
        seen.append((runner._work, tracker.open_units()[0]))

    write_scene(tmp_path / "in" / "a.tif", 90, 80)
    monkeypatch.setattr(LocalRunner, "run_units", not_now)
    arguments = [str(tmp_path / "in")], small_checkpoint, str(tmp_path / "out"), SETTINGS
    with pytest.raises(
        UnfinishedError, match=r"0 of 1 scenes have an outcome; without one: a\.tif"
    ):
        run(*arguments, Execution(runner="local"))
    return seen[0]


def ended(job: tuple[Work, Unit], monkeypatch: pytest.MonkeyPatch, error: Exception) -> Failure:
    """The verdict on a read that ends so."""
    work, unit = job

    def get(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline.cluster.isolation.ray, "get", get)
    found = pipeline.cluster.isolation.result_or_failure(work, unit.blocks[0], "read", lambda: None)
    assert isinstance(found, Failure)
    return found


def of_task(cause: Exception) -> RayTaskError:
    return RayTaskError("read", "Traceback ...", cause)


@pytest.mark.parametrize(
    ("error", "verdict", "says"),
    [
        (ray.exceptions.WorkerCrashedError(), "crashed", "ended its process each time"),
        (ray.exceptions.ActorDiedError(), "crashed", "ended its process each time"),
        (ray.exceptions.OutOfMemoryError("killed"), "memory", "more memory than there is"),
        (of_task(MemoryError("of 9 bytes")), "memory", "more memory than it may: of 9 bytes"),
    ],
    ids=repr,
)
def test_whose_fault_it_is(
    job: tuple[Work, Unit],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    verdict: str,
    says: str,
) -> None:
    failure = ended(job, monkeypatch, error)
    assert (failure.scene_id, failure.stage, failure.error) == ("a.tif", "read", verdict)
    assert says in failure.message
    assert failure.message.startswith(failure.url)


def test_a_process_that_ends_at_its_limit_was_ended_by_its_guard(
    job: tuple[Work, Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, unit = job
    at_once = replace(work, unit_timeout_s=0.0), unit
    failure = ended(at_once, monkeypatch, ray.exceptions.WorkerCrashedError())
    assert failure.error == "timeout"


def test_a_file_that_is_gone_meanwhile_is_said_to_be(
    job: tuple[Work, Unit], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in" / "a.tif").unlink()
    failure = ended(job, monkeypatch, ray.exceptions.WorkerCrashedError())
    assert "vanished after it was planned" in failure.message


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (ray.exceptions.GetTimeoutError(), TransientError, "found no room"),
        (ray.exceptions.ObjectLostError("0" * 56, None, ""), TransientError, "ObjectLostError"),
        (of_task(TransientError("s3://b/k: gone")), TransientError, "s3://b/k: gone"),
        (of_task(CheckpointError("m is damaged")), CheckpointError, "m is damaged"),
        (of_task(RuntimeError("CUDA error")), UnfinishedError, "RuntimeError: CUDA error"),
    ],
    ids=repr,
)
def test_what_is_no_input_s_fault_is_raised(
    job: tuple[Work, Unit],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    says: str,
) -> None:
    with pytest.raises(kind, match=says):
        ended(job, monkeypatch, error)


def workers(title: str) -> list[int]:
    """Processes of the Ray that we have started that are at this."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat[1])

    def ours(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [pid for pid, words in titles.items() if words.startswith(title) and ours(pid)]


def loads_torch(pid: int) -> bool:
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@contextmanager
def killing(title: str, times: int) -> Iterator[list[int]]:
    """Kills the first processes that are seen to load a replica at this; yields which."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05) and len(killed) < times:
            for pid in workers(title):
                if pid not in killed and len(killed) < times and loads_torch(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.slow
def test_a_replica_that_dies_while_it_is_loaded(small_checkpoint: str, tmp_path: Path) -> None:
    """Once, and it is started again; each time, and the run ends and says so."""
    write_scene(tmp_path / "in" / "a.tif", 90, 80)
    out, execution = str(tmp_path / "out"), Execution(replicas=1)
    arguments = [str(tmp_path / "in")], small_checkpoint, out, SETTINGS, execution
    loading = "ray::MapWorker(MapBatches(SegmentStage)).__init__"
    with killing(loading, 100) as killed, pytest.raises(UnfinishedError) as error:
        run(*arguments)
    assert len(killed) == LOADING_DEATHS
    assert f"{small_checkpoint}: no replica could be loaded" in str(error.value)
    with killing(loading, 1) as killed:
        receipt = run(*arguments)
    assert len(killed) == 1
    assert (receipt.scenes_done, receipt.failures) == (1, ())


@pytest.mark.slow
@pytest.mark.ray
def test_a_replica_alone_that_cannot_be_loaded(job: tuple[Work, Unit], tmp_path: Path) -> None:
    work, unit = job
    memory = work.budget.schedulable_bytes + 4_000_000_000
    with connected(None, 3, memory, 200_000_000):
        gone = replace(work, job=replace(work.job, checkpoint=str(tmp_path / "gone")))
        with pytest.raises(CheckpointError, match=r"gone does not exist"):
            segment_in_isolation(gone, unit)

        read = work.read(unit)
        replica = IsolatedReplica(work)
        with (
            killing("ray::IsolatedReplicaActor.load", 100) as killed,
            pytest.raises(UnfinishedError, match="a replica that loads it ended its process"),
        ):
            replica.segment(read)
        assert len(killed) == 2
        with killing("ray::IsolatedReplicaActor.load", 1):
            assert ray.get(replica.segment(read)).windows > 0
        replica.close()


def test_an_error_of_a_gpu_ends_its_process() -> None:
    """And Ray starts another one; on a CPU it is the unit's."""
    program = (
        "from pipeline.cluster.replica_actor import exit_on_gpu_error\n"
        "with exit_on_gpu_error({device!r}):\n"
        "    raise RuntimeError('CUDA error: an illegal\\n address')"
    )

    def ended(device: str) -> tuple[int, str]:
        command = [sys.executable, "-c", program.format(device=device)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    code, said = ended("cuda")
    assert code == 1
    assert said.endswith("its replica is restarted: CUDA error: an illegal address\n")
    assert "Traceback" not in said
    assert "Traceback" in ended("cpu")[1]

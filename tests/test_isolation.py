"""The failure of a unit without an outcome, and on replicas that cannot be loaded."""

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
from pipeline.output.outcomes import outcome_of
from pipeline.settings import Execution, Settings
from pipeline.stages import Work
from pipeline.unit import Unit
from tests.support import troubled_stages
from tests.support.archives import write_scene

SETTINGS = Settings(window=64, stride=48, batch=2)


@pytest.fixture
def job(
    small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Work, Unit]:
    """The work and the unit of a run that is stopped before it computes anything."""
    work: list[tuple[Work, Unit]] = []

    def stop(runner: LocalRunner, tracker: Tracker) -> None:
        work.append((runner._work, tracker.open_units()[0]))

    write_scene(tmp_path / "in" / "a.tif", 90, 80)
    monkeypatch.setattr(LocalRunner, "run_units", stop)
    arguments = [str(tmp_path / "in")], small_checkpoint, str(tmp_path / "out"), SETTINGS
    with pytest.raises(
        UnfinishedError, match=r"0 of 1 scenes have an outcome; without one: a\.tif"
    ):
        run(*arguments, Execution(runner="local"))
    return work[0]


def failure_on(
    job: tuple[Work, Unit], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> Failure:
    """The failure of a read that ends with this error."""
    work, unit = job

    def get(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline.cluster.isolation.ray, "get", get)
    failure = pipeline.cluster.isolation.result_or_failure(
        work, unit.blocks[0], "read", lambda: None
    )
    assert isinstance(failure, Failure)
    return failure


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("read", "Traceback ...", cause)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ray.exceptions.WorkerCrashedError(), "crashed", "ended its process each time"),
        (ray.exceptions.ActorDiedError(), "crashed", "ended its process each time"),
        (ray.exceptions.OutOfMemoryError("killed"), "memory", "more memory than there is"),
        (task_error(MemoryError("of 9 bytes")), "memory", "more memory than it may: of 9 bytes"),
    ],
    ids=repr,
)
def test_a_fault_of_the_input_becomes_a_failure_that_names_it(
    job: tuple[Work, Unit],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: str,
    message: str,
) -> None:
    failure = failure_on(job, monkeypatch, error)
    assert (failure.scene_id, failure.stage, failure.error) == ("a.tif", "read", code)
    assert message in failure.message
    assert failure.message.startswith(failure.url)


def test_a_process_that_ends_at_its_time_limit_is_a_timeout_not_a_crash(
    job: tuple[Work, Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, unit = job
    expired = replace(work, unit_timeout_s=0.0), unit
    failure = failure_on(expired, monkeypatch, ray.exceptions.WorkerCrashedError())
    assert failure.error == "timeout"


def test_a_file_that_vanished_meanwhile_is_named_as_the_cause(
    job: tuple[Work, Unit], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "in" / "a.tif").rename(tmp_path / "in" / "b.tif")  # not an empty, unmounted folder
    failure = failure_on(job, monkeypatch, ray.exceptions.WorkerCrashedError())
    assert "vanished after it was planned" in failure.message


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ray.exceptions.GetTimeoutError(), TransientError, "found no room"),
        (ray.exceptions.ObjectLostError("0" * 56, None, ""), TransientError, "ObjectLostError"),
        (task_error(TransientError("s3://b/k: gone")), TransientError, "s3://b/k: gone"),
        (task_error(CheckpointError("m is damaged")), CheckpointError, "m is damaged"),
        (task_error(RuntimeError("CUDA error")), UnfinishedError, "RuntimeError: CUDA error"),
    ],
    ids=repr,
)
def test_an_error_that_is_no_inputs_fault_is_raised(
    job: tuple[Work, Unit],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        failure_on(job, monkeypatch, error)


def workers(title: str) -> list[int]:
    """Ids of processes with this title among those that this process has started."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            titles[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat[1])

    def descends_from_us(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return [
        pid for pid, words in titles.items() if words.startswith(title) and descends_from_us(pid)
    ]


def loads_torch(pid: int) -> bool:
    try:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


@contextmanager
def killing(title: str, times: int) -> Iterator[list[int]]:
    """Kill the first processes with this title that load torch; yields the ids of those killed."""
    killed: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05) and len(killed) < times:
            for pid in workers(title):
                if pid not in killed and len(killed) < times and loads_torch(pid):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        done.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.slow
def test_a_replica_that_dies_while_loading_is_restarted_a_few_times(
    small_checkpoint: str, tmp_path: Path
) -> None:
    """A replica that dies once is restarted; one that dies each time ends the run."""
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
def test_an_isolated_replica_that_cannot_be_loaded_ends_the_run(
    job: tuple[Work, Unit], tmp_path: Path
) -> None:
    work, unit = job
    memory = work.budget.schedulable_bytes + 4_000_000_000
    with connected(None, 3, memory, 200_000_000):
        missing = replace(work, job=replace(work.job, checkpoint=str(tmp_path / "gone")))
        with pytest.raises(CheckpointError, match=r"gone does not exist"):
            segment_in_isolation(missing, unit)

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


@pytest.mark.slow
@pytest.mark.ray
def test_a_scene_that_ends_the_process_that_finishes_it_is_quarantined(
    job: tuple[Work, Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, unit = job
    (block,) = unit.blocks
    scene = replace(block.scene, scene_id="crash.tif")
    both = Unit(unit.shard, (block, replace(block, scene=scene)))
    for name, double in (
        ("finish_with_limits", troubled_stages.deadly_finish),
        ("try_finish_with_limits", troubled_stages.deadly_try_finish),
    ):
        monkeypatch.setattr(pipeline.cluster.isolation, name, double)
    with connected(None, 3, work.budget.schedulable_bytes + 4_000_000_000, 200_000_000):
        segment_in_isolation(work, both)
    outcome = outcome_of(work.out, both)
    (failure,) = outcome.failures
    assert (failure.scene_id, failure.stage, failure.error) == ("crash.tif", "finish", "crashed")
    assert f"to finish window {block.core} ended its process each time" in failure.message


def test_an_error_of_a_gpu_ends_the_process_of_its_replica() -> None:
    """Ray then starts another process; on a CPU the error is the unit's."""
    program = (
        "from pipeline.cluster.replica_actor import exit_on_gpu_error\n"
        "with exit_on_gpu_error({device!r}):\n"
        "    raise RuntimeError('CUDA error: an illegal\\n address')"
    )

    def run_on(device: str) -> tuple[int, str]:
        command = [sys.executable, "-c", program.format(device=device)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    code, stderr = run_on("cuda")
    assert code == 1
    assert stderr.endswith("its replica is restarted: CUDA error: an illegal address\n")
    assert "Traceback" not in stderr
    assert "Traceback" in run_on("cpu")[1]

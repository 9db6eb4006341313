"""Publishing tasks: killed, interrupted, failing, and several at the same time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.promises.kills import PHASES, Moment, kill_tree, processes, start
from pipeline.api import run
from pipeline.cluster.publishers import ATTEMPTS, Publishers
from pipeline.errors import UnfinishedError
from pipeline.planning import machine, planner
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import USABLE, MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene
from tests.support.outputs import differences, receipts, stray_files

GB = 10**9
SETTINGS = Settings(window=512, stride=512, batch=1)
LOCAL, ON_RAY = Execution(runner="local", block=512), Execution(replicas=1, block=512)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with enough units for publishing to take a while."""
    folder = tmp_path_factory.mktemp("archive")
    write_scene(folder / "large.tif", 3000, 3000)
    return folder


@pytest.fixture(scope="module")
def calm(archive: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calm") / "out"
    run([str(archive)], small_checkpoint, str(out), SETTINGS, LOCAL)
    return out


def command(archive: Path, checkpoint: str) -> list[str]:
    options = "--window 512 --stride 512 --batch 1 --block 512 --replicas 1"
    return [str(archive), "--checkpoint", checkpoint, *options.split()]


def publisher(process: subprocess.Popen[bytes], mark: str) -> int | None:
    """The pid of the publishing process, or None once the run has ended."""
    while process.poll() is None:
        for pid in processes(mark):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::publish_shard"):
                return pid
    return None


def stop_at(moment: Moment, out: Path, process: subprocess.Popen[bytes], mark: str) -> int:
    """Stop the publishing process as soon as the moment is observed, and return its pid."""
    pid = publisher(process, mark)
    assert pid is not None, process.communicate()[1]
    os.kill(pid, signal.SIGSTOP)
    while not moment(out):
        assert not list((out / "commits").glob("*.json")), "missed"
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.001)
        os.kill(pid, signal.SIGSTOP)
    return pid


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("phase", ["unit", "writing a table", "tables, no commit"])
def test_a_killed_publishing_task_is_retried(
    archive: Path, small_checkpoint: str, calm: Path, tmp_path: Path, phase: str
) -> None:
    out = tmp_path / "out"
    process, mark = start(command(archive, small_checkpoint), out)
    try:
        os.kill(stop_at(PHASES[phase], out, process, mark), signal.SIGKILL)
        _, stderr = process.communicate(timeout=120)
    finally:
        kill_tree(mark)
    assert process.returncode == 0, stderr
    assert b"shard 000000 was lost while it was being published; retrying it" in stderr
    assert receipts(out)[-1]["units_computed"] == receipts(out)[-1]["units"] == 36
    assert differences(calm, out) == []
    assert stray_files(out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_publishing_task_killed_on_every_attempt_stops_the_run_without_loss(
    archive: Path, small_checkpoint: str, calm: Path, tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", 0
    process, mark = start(command(archive, small_checkpoint), out)
    try:
        while (pid := publisher(process, mark)) is not None:
            os.kill(pid, signal.SIGKILL)
            killed += 1
            while Path(
                f"/proc/{pid}/cmdline"
            ).exists():  # a zombie keeps the file, but has no title
                time.sleep(0.01)
        _, stderr = process.communicate(timeout=60)
    finally:
        kill_tree(mark)
    assert killed == ATTEMPTS
    assert process.returncode == 1
    last = stderr.decode().splitlines()[-1]
    assert last.startswith(f"swath: error: {out}: shard 000000 cannot be published: ")
    assert last.endswith("What is done is kept, the same command resumes the run")
    assert b"Traceback" not in stderr
    done = run([str(archive)], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert done.units_computed == 0
    assert differences(calm, out) == []
    assert stray_files(out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_while_a_table_is_written_leaves_a_resumable_output(
    archive: Path, small_checkpoint: str, calm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process, mark = start(command(archive, small_checkpoint), out)
    try:
        pid = stop_at(PHASES["writing a table"], out, process, mark)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        _, stderr = process.communicate(timeout=60)
    finally:
        kill_tree(mark)
    assert process.returncode == 1
    assert b"run the same command again: swath run " in stderr
    assert not list(out.rglob(".*"))
    # No unit is left to compute: Ray is started only to publish.
    done = run([str(archive)], small_checkpoint, str(out), SETTINGS, ON_RAY)
    assert done.units_computed == 0
    assert differences(calm, out) == []
    assert stray_files(out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_an_error_in_a_publishing_task_keeps_its_message(
    small_checkpoint: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_scene(tmp_path / "in" / "a.tif", 600, 90)
    (tmp_path / "in" / "b.tif").write_text("no image")
    arguments = [str(tmp_path / "in")], small_checkpoint, str(out), SETTINGS
    run(*arguments, LOCAL)
    write_scene(tmp_path / "in" / "b.tif", 600, 90)
    (table,) = (out / "quarantine").iterdir()  # from which the row of b.tif is to be deleted
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(UnfinishedError) as error:
        run(*arguments, ON_RAY)
    assert str(error.value).startswith(f"{table}: this published table is damaged")
    assert str(error.value).endswith("what is done is kept, the same command resumes the run")
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(receipts(out)[-1]["ended"])


@pytest.mark.ray
@pytest.mark.slow
def test_shards_are_published_concurrently_but_old_rows_are_deleted_one_shard_at_a_time(
    small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "TASKS_PER_PUBLISHER", 1)
    monkeypatch.setattr(planner, "SHARD_SCENES", 1)
    folder, out, scenes = tmp_path / "in", tmp_path / "out", range(8)
    folder.mkdir()
    for n in scenes:
        (folder / f"{n}.tif").write_text("no image")
    write_scene(folder / "good.tif", 100, 80)
    arguments = [str(folder)], small_checkpoint, str(out), SETTINGS
    run(*arguments, LOCAL)
    running: list[list[bool]] = []
    start_tasks = Publishers._start_tasks

    def start_and_record(self: Publishers) -> None:
        start_tasks(self)
        running.append([bool(shard.retries) for shard in self._running.values()])

    monkeypatch.setattr(Publishers, "_start_tasks", start_and_record)
    for n in scenes:
        write_scene(folder / f"{n}.tif", 100, 80, seed=n)
        write_scene(folder / f"new-{n}.tif", 100, 80, seed=n)
    done = run(*arguments, ON_RAY)
    assert done.scenes_done == 2 * len(scenes) + 1
    assert max(len(tasks) for tasks in running) > 1
    assert max(sum(tasks) for tasks in running) == 1
    fresh = tmp_path / "fresh"
    run([str(folder)], small_checkpoint, str(fresh), SETTINGS, LOCAL)
    assert differences(fresh, out) == []
    assert stray_files(out) == []


def memory_budget(memory_bytes: int, tasks: int, nodes: int = 0) -> MemoryBudget | None:
    need = MemoryNeed(GB, GB, GB, GB, GB, 10**8, GB, 0, 0)
    return MemoryBudget.of(
        need, Machine("cpu", 2, memory_bytes, tasks, nodes_bytes=nodes * (4 * GB,))
    )


def test_as_many_publishers_run_as_fit_the_memory() -> None:
    budgets = [memory_budget(memory_gb * GB, tasks=16) for memory_gb in range(6, 60)]
    assert {budget.publishers for budget in budgets if budget} == {1, 2, 3, 4}
    for memory_gb, budget in zip(range(6, 60), budgets, strict=True):
        assert budget is None or budget.total_bytes <= USABLE * memory_gb * GB


def test_a_cluster_has_one_publisher_per_node() -> None:
    budget = memory_budget(GB, tasks=4, nodes=3)
    assert budget is not None
    assert budget.publishers == 3

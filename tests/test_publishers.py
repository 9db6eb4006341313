"""Tasks that publish: lost, stopped, failing, and several at once."""

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
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene
from tests.support.outputs import differences, receipts, stray_files

GB = 10**9
SETTINGS = Settings(window=512, stride=512, batch=1)
LOCAL, ON_RAY = Execution(runner="local", block=512), Execution(replicas=1, block=512)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Units enough for publishing to take a while."""
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
    """The process that publishes; None: the run has ended."""
    while process.poll() is None:
        for pid in processes(mark):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::publish_shard"):
                return pid
    return None


def stopped_at(moment: Moment, out: Path, process: subprocess.Popen[bytes], mark: str) -> int:
    """The process that publishes, stopped in the first moment that is seen to be one."""
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
def test_a_task_that_is_killed_is_repeated(
    archive: Path, small_checkpoint: str, calm: Path, tmp_path: Path, phase: str
) -> None:
    out = tmp_path / "out"
    process, mark = start(command(archive, small_checkpoint), out)
    try:
        os.kill(stopped_at(PHASES[phase], out, process, mark), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    finally:
        kill_tree(mark)
    assert process.returncode == 0, said
    assert b"shard 000000 was lost while it was being published; retrying it" in said
    assert receipts(out)[-1]["units_computed"] == receipts(out)[-1]["units"] == 36
    assert differences(calm, out) == []
    assert stray_files(out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_task_that_is_killed_each_time_ends_the_run_and_nothing_is_lost(
    archive: Path, small_checkpoint: str, calm: Path, tmp_path: Path
) -> None:
    out, killed = tmp_path / "out", 0
    process, mark = start(command(archive, small_checkpoint), out)
    try:
        while (pid := publisher(process, mark)) is not None:
            os.kill(pid, signal.SIGKILL)
            killed += 1
            while Path(f"/proc/{pid}/cmdline").exists():  # a zombie has it, and no title
                time.sleep(0.01)
        _, said = process.communicate(timeout=60)
    finally:
        kill_tree(mark)
    assert killed == ATTEMPTS
    assert process.returncode == 1
    last = said.decode().splitlines()[-1]
    assert last.startswith(f"swath: error: {out}: shard 000000 cannot be published: ")
    assert last.endswith("What is done is kept, the same command resumes the run")
    assert b"Traceback" not in said
    done = run([str(archive)], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert done.units_computed == 0
    assert differences(calm, out) == []
    assert stray_files(out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_while_a_table_is_written(
    archive: Path, small_checkpoint: str, calm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process, mark = start(command(archive, small_checkpoint), out)
    try:
        pid = stopped_at(PHASES["writing a table"], out, process, mark)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        _, said = process.communicate(timeout=60)
    finally:
        kill_tree(mark)
    assert process.returncode == 1
    assert b"run the same command again: swath run " in said
    assert not list(out.rglob(".*"))
    # Without a unit to compute: this Ray is there to publish.
    done = run([str(archive)], small_checkpoint, str(out), SETTINGS, ON_RAY)
    assert done.units_computed == 0
    assert differences(calm, out) == []
    assert stray_files(out) == []


@pytest.mark.ray
def test_what_a_task_raises_is_told_in_its_words(small_checkpoint: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_scene(tmp_path / "in" / "wide.tif", 600, 90)
    given = [str(tmp_path / "in")], small_checkpoint, str(out), SETTINGS

    def stop(progress: Progress) -> None:
        if progress.done_units == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*given, LOCAL, stop)
    (unit,) = out.glob("work/*/*.parquet")
    whole = unit.read_bytes()
    unit.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])  # its footer is sound
    with pytest.raises(UnfinishedError) as error:
        run(*given, ON_RAY)
    assert str(error.value).startswith(f"{unit}: is damaged (")
    assert str(error.value).endswith("the same command computes its unit again")
    assert len(str(error.value).splitlines()) == 1
    assert receipts(out)[-1]["ended"] == str(error.value)


@pytest.mark.ray
@pytest.mark.slow
def test_several_at_once_but_one_that_takes_out_old_rows(
    small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "TASKS_PER_PUBLISHER", 1)
    monkeypatch.setattr(planner, "SHARD_SCENES", 1)
    folder, out, scenes = tmp_path / "in", tmp_path / "out", range(8)
    folder.mkdir()
    for n in scenes:
        (folder / f"{n}.tif").write_text("no image")
    write_scene(folder / "good.tif", 100, 80)
    given = [str(folder)], small_checkpoint, str(out), SETTINGS
    run(*given, LOCAL)
    running: list[list[bool]] = []
    start_tasks = Publishers._start_tasks

    def noted(self: Publishers) -> None:
        start_tasks(self)
        running.append([bool(shard.retries) for shard in self._running.values()])

    monkeypatch.setattr(Publishers, "_start_tasks", noted)
    for n in scenes:
        write_scene(folder / f"{n}.tif", 100, 80, seed=n)
        write_scene(folder / f"new-{n}.tif", 100, 80, seed=n)
    done = run(*given, ON_RAY)
    assert done.scenes_done == 2 * len(scenes) + 1
    assert max(len(some) for some in running) > 1
    assert max(sum(some) for some in running) == 1
    fresh = tmp_path / "fresh"
    run([str(folder)], small_checkpoint, str(fresh), SETTINGS, LOCAL)
    assert differences(fresh, out) == []
    assert stray_files(out) == []


def budget(memory_bytes: int, tasks: int, nodes: int = 0) -> MemoryBudget | None:
    need = MemoryNeed(GB, GB, GB, GB, GB, 10**8, GB)
    return MemoryBudget.of(
        need, Machine("cpu", 2, memory_bytes, tasks, nodes_bytes=nodes * (4 * GB,))
    )


def test_as_many_at_once_as_fit() -> None:
    found = [budget(memory_gb * GB, tasks=16) for memory_gb in range(6, 60)]
    assert {one.publishers for one in found if one} == {1, 2, 3, 4}
    for memory_gb, one in zip(range(6, 60), found, strict=True):
        assert one is None or one.total_bytes <= USABLE * memory_gb * GB


def test_on_a_cluster_one_for_each_node() -> None:
    three = budget(GB, tasks=4, nodes=3)
    assert three is not None
    assert three.publishers == 3

"""`--runner auto`: a plain loop in a process that may die, Ray behind it, and the same rows."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import pipeline.planning.machine
from pipeline.api import plan, run
from pipeline.driver.plain_loop import PlainLoop
from pipeline.errors import CheckpointError, UnfinishedError
from pipeline.planning.machine import Machine
from pipeline.planning.runner_choice import is_small, may_choose
from pipeline.planning.workload import Network, Workload
from pipeline.receipt import Receipt
from pipeline.settings import AUTO, Execution, Settings
from pipeline.share import Share
from tests.support.archives import write_scene
from tests.support.outputs import differences

SETTINGS = Settings(window=64, stride=48, batch=2)
GOOD = ("a.tif", "b.tif")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for name in GOOD:
        write_scene(tmp_path / "in" / name, 150, 100)
    return tmp_path / "in"


def segment(archive: Path, checkpoint: str, out: Path, runner: str = AUTO) -> Receipt:
    return run([str(archive)], checkpoint, str(out), SETTINGS, Execution(runner=runner, block=512))


def test_a_small_job_is_done_by_a_plain_loop_and_recorded_as_that(
    archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    receipt = segment(archive, small_checkpoint, tmp_path / "auto")
    segment(archive, small_checkpoint, tmp_path / "local", "local")
    assert (receipt.runner, receipt.replicas, receipt.units_computed) == ("local", 1, 2)
    job_file = (tmp_path / "auto" / "job.toml").read_text()
    assert "\n# --runner auto: local\n" in job_file
    assert 'runner = "auto"' in job_file
    assert differences(tmp_path / "auto", tmp_path / "local") == []


@pytest.mark.ray
@pytest.mark.slow
def test_its_rows_are_those_of_ray(archive: Path, small_checkpoint: str, tmp_path: Path) -> None:
    segment(archive, small_checkpoint, tmp_path / "auto")
    assert segment(archive, small_checkpoint, tmp_path / "ray", "ray").runner == "ray"
    assert differences(tmp_path / "auto", tmp_path / "ray") == []


@pytest.mark.parametrize(
    "execution",
    [
        Execution(runner="ray"),
        Execution(runner="local"),
        Execution(address="127.0.0.1:6379"),
        Execution(replicas=1),
        Execution(shards=Share(1, 2)),
    ],
    ids=str,
)
def test_what_the_user_asked_for_is_not_chosen_again(execution: Execution) -> None:
    assert may_choose(Execution())
    assert not may_choose(execution)


@pytest.mark.parametrize(
    ("cores", "seconds", "small"),
    [(1, 59, True), (1, 61, False), (2, 19, True), (2, 21, False), (16, 10, True), (16, 11, False)],
)
def test_a_job_is_small_if_the_loop_is_done_before_ray_is(
    cores: int, seconds: float, small: bool
) -> None:
    machine = Machine("cpu", cores, 1 << 36, tasks=4)
    workload = Workload(Settings(), machine, Network(4, 8.0, 10**7, 500))
    assert is_small(workload, seconds / workload.window_s) is small


def test_too_little_memory_for_ray_means_the_loop_and_says_so(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.driver.division.is_small", lambda *_: False)
    monkeypatch.setattr(pipeline.planning.machine, "available_memory_bytes", lambda: 2_300_000_000)
    receipt = segment(archive, small_checkpoint, tmp_path / "out")
    assert receipt.runner == "local"
    assert [note for note in receipt.notes if "too little memory for Ray" in note]


def test_a_damaged_checkpoint_is_refused_as_ever(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"m\.pth"):
        segment(archive, str(tmp_path / "m.pth"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_process_that_dies_while_it_reads_the_checkpoint_ends_the_command(
    archive: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainLoop, "__reduce__", lambda _: (os._exit, (3,)))
    with pytest.raises(UnfinishedError, match="cannot be read: its process ended with exit code 3"):
        plan([str(archive)], small_checkpoint, SETTINGS)


def loop_processes() -> list[int]:
    """Ids of the workers that this process has started and that hold a plain loop."""
    children = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_text()
        except OSError:
            continue
        if parent == os.getpid() and "processes.worker import serve" in words:
            children.append(int(folder.name))
    return children


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.5 * n for n in range(1, 11)])
def test_a_loop_that_is_killed_at_any_moment_loses_nothing(
    delay_s: float, small_checkpoint: str, tmp_path: Path
) -> None:
    for number in range(6):
        write_scene(tmp_path / "in" / f"{number}.tif", 700, 600)
    killed: list[int] = []

    def kill() -> None:
        time.sleep(delay_s)
        for pid in loop_processes():
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with suppress(UnfinishedError):  # it had not read the checkpoint yet
        segment(tmp_path / "in", small_checkpoint, tmp_path / "out")
    segment(tmp_path / "in", small_checkpoint, tmp_path / "out")
    thread.join()
    segment(tmp_path / "in", small_checkpoint, tmp_path / "calm", "local")
    assert differences(tmp_path / "out", tmp_path / "calm") == []

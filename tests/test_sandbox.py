"""Worker processes crash, hang and run out of memory; the other items still get their results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

import pipeline.driver.survey
import pipeline.imagery.header_pool
from pipeline.api import run
from pipeline.driver.planned_inputs import PlannedInputs
from pipeline.driver.survey import survey_inputs
from pipeline.errors import TransientError, UnfinishedError
from pipeline.imagery.header_pool import HeaderPool
from pipeline.output.resume import OutputRecord
from pipeline.output.status import status
from pipeline.processes.sandbox import Died, Limits, Raised, Returned, run_in_sandbox
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support import crashing_headers, worker_deaths
from tests.support.archives import write_scene

LIMITS = Limits(processes=2, threads=4, item_s=2.0, memory_bytes=200_000_000)

PARENT = """
import sys
from tests.support.worker_deaths import misbehave
from pipeline.processes.sandbox import Limits, run_in_sandbox
for _ in run_in_sandbox(misbehave, sys.argv[1:], Limits(2, 4, 600.0, 10**9)):
    pass
"""


NOTHING = PlannedInputs.of(OutputRecord([], [], set()), retry=False)


def test_only_items_that_kill_their_process_die() -> None:
    items = [f"good {n}" for n in range(200)]
    deadly = {
        3: ("segfault", "crashed", "killed by SIGSEGV"),
        4: ("kill", "crashed", "killed by SIGKILL"),
        5: ("abort", "crashed", "killed by SIGABRT"),
        40: ("exit", "crashed", "exit code 0"),
        41: ("sleep", "timeout", "more than 2 s"),
        120: ("hang", "timeout", "more than 2 s"),
        150: ("memory", "memory", "more than 0.2 GB"),
        151: ("touch", "memory", "more than 0.2 GB"),
    }
    for index, (item, _, _) in deadly.items():
        items[index] = item
    outcomes = list(run_in_sandbox(worker_deaths.misbehave, items, LIMITS))
    assert sorted(index for index, _ in outcomes) == list(range(200))
    for index, outcome in outcomes:
        if index in deadly:
            _, reason, how = deadly[index]
            assert isinstance(outcome, Died)
            assert outcome.reason == reason
            assert how in outcome.how
        else:
            assert outcome == Returned(items[index].upper())


def test_exceptions_arrive_unchanged_or_at_least_as_text() -> None:
    items = ["raise x", "good", "odd y", "leave"]
    outcomes = dict(run_in_sandbox(worker_deaths.misbehave, items, LIMITS))
    errors = {i: out.error for i, out in outcomes.items() if isinstance(out, Raised)}
    assert {i: (type(e), str(e)) for i, e in errors.items()} == {
        0: (ValueError, "x"),
        2: (RuntimeError, "Odd: y"),
        3: (SystemExit, "1"),
    }
    assert outcomes[1] == Returned("GOOD")


def test_a_small_job_starts_one_process() -> None:
    pids = {out.value for _, out in run_in_sandbox(worker_deaths.misbehave, ["pid"] * 64, LIMITS)}  # type: ignore[union-attr]
    assert len(pids) == 1
    assert str(os.getpid()) not in pids
    assert list(run_in_sandbox(worker_deaths.misbehave, [], LIMITS)) == []


def test_the_output_of_workers_is_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes = dict(run_in_sandbox(worker_deaths.misbehave, ["print", "segfault", "abort"], LIMITS))
    assert outcomes[0] == Returned("PRINT")
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_cannot_start_raises_and_blames_no_item(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = types.ModuleType("only_here")
    exec("def function(item): return item", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(UnfinishedError, match="could not start: its process ended with exit code"):
        list(run_in_sandbox(module.function, ["good"], LIMITS))
    assert "No module named 'only_here'" in capfd.readouterr().err


@pytest.fixture
def report(tmp_path: Path) -> tuple[str, Callable[[], int]]:
    """An item that never finishes, and a function that returns the pid of its worker."""
    path = tmp_path / "pid"

    def pid() -> int:
        while not path.exists() or not path.read_text():
            time.sleep(0.01)
        return int(path.read_text())

    return f"report {path}", pid


def wait_until_gone(pid: int) -> None:
    while (status := Path(f"/proc/{pid}/status")).exists():
        if "\nState:\tZ" in status.read_text():  # an orphan that has not been reaped yet
            return
        time.sleep(0.01)


def test_an_item_that_rearms_its_limit_gets_more_time() -> None:
    items = ["signs 3.0", "silence 3.0", "sleep"]
    outcomes = dict(run_in_sandbox(worker_deaths.misbehave, items, LIMITS))
    assert outcomes[0] == Returned("SIGNS 3.0")
    assert outcomes[1] == Returned("SILENCE 3.0")
    assert isinstance(outcomes[2], Died)


def test_closing_the_results_early_stops_the_workers(report: tuple[str, Callable[[], int]]) -> None:
    item, pid = report
    with closing(run_in_sandbox(worker_deaths.misbehave, [item, "good"], LIMITS)) as outcomes:
        assert next(outcomes) == (1, Returned("GOOD"))
        worker = pid()
    wait_until_gone(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("kind", ["report", "report-hang"])
def test_a_killed_parent_leaves_no_worker(report: tuple[str, Callable[[], int]], kind: str) -> None:
    item, pid = report
    path = os.pathsep.join(sys.path)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, item.replace("report", kind, 1)],
        env={**os.environ, "PYTHONPATH": path},
    )
    worker = pid()
    parent.kill()
    parent.wait()
    wait_until_gone(worker)


def workers_of(parent: int) -> list[int]:
    """The pids of the sandbox's workers, without the short-lived processes of other libraries."""
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    paths = [Path(f"/proc/{pid}/cmdline") for pid in pids]
    lines = [path.read_bytes() if path.exists() else b"" for path in paths]
    return [
        int(pid)
        for pid, line in zip(pids, lines, strict=True)
        if b"pipeline.processes.worker" in line
    ]


def test_ctrl_c_while_describing_stops_the_workers(small_checkpoint: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "never.png")
    os.mkfifo(tmp_path / "never.pgw")  # nothing writes to it, so that opening it blocks for ever
    command = [sys.executable, "-m", "jobs.cli", "plan", str(tmp_path / "never.png")]
    process = subprocess.Popen(
        [*command, "--checkpoint", small_checkpoint],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while len(workers := workers_of(process.pid)) < 2:  # for the checkpoint, and for headers
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.endswith("\nswath: error: stopped\n")
    for worker in workers:
        wait_until_gone(worker)


def survey_with_progress(tmp_path: Path) -> pipeline.driver.survey.Survey:
    seen: list[tuple[int, int]] = []
    result = survey_inputs(
        [str(tmp_path)],
        Settings(),
        3,
        NOTHING,
        DEFAULT_ACCESS,
        HeaderPool(lambda *count: seen.append(count)),
    )
    assert seen == [(n, 5) for n in range(1, 6)]
    return result


def test_headers_that_end_their_process_are_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "crash", "hang", "raise", "z"):
        write_scene(tmp_path / f"{name}.tif", 64, 64)
    monkeypatch.setattr(
        pipeline.imagery.raster, "describe_file", crashing_headers.describe_or_failure
    )
    monkeypatch.setattr(pipeline.imagery.header_pool, "_HEADER_S", 3.0)
    survey = survey_with_progress(tmp_path)
    assert [scene.scene_id for scene in survey.scenes] == ["a.tif", "z.tif"]
    failures = [rejected.failure for rejected in survey.rejected]
    assert [(f.scene_id, f.stage, f.error) for f in failures] == [
        ("crash.tif", "describe", "crashed"),
        ("hang.tif", "describe", "timeout"),
        ("raise.tif", "describe", "ZeroDivisionError"),
    ]
    assert failures[0].message == (
        f"{tmp_path}/crash.tif: its header cannot be read: its process was killed by SIGSEGV;"
        " replace the file or leave it out"
    )


def survey_of(folder: Path, *names: str) -> pipeline.driver.survey.Survey:
    for name in names:
        write_scene(folder / name, 64, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline.imagery.raster, "describe_file", crashing_headers.describe_or_failure
        )
        return survey_inputs([str(folder)], Settings(), 3, NOTHING, DEFAULT_ACCESS, HeaderPool())


@pytest.mark.parametrize("names", [["unavailable"], [*"a", *(f"unavailable{n}" for n in range(9))]])
def test_a_survey_fails_if_many_or_all_files_are_unavailable(
    tmp_path: Path, names: list[str]
) -> None:
    with pytest.raises(TransientError, match=r"unavailable\d?.tif: the store fails \(500\)"):
        survey_of(tmp_path, *(f"{name}.tif" for name in names))


def test_an_unavailable_file_is_left_open(tmp_path: Path) -> None:
    survey = survey_of(tmp_path, "a.tif", "b.tif", "unavailable.tif")
    assert [scene.scene_id for scene in survey.scenes] == ["a.tif", "b.tif"]
    assert not survey.rejected
    assert survey.unavailable == (f"{tmp_path}/unavailable.tif",)
    assert survey.notes == (
        "1 input is left open; unavailable from the store, the first:"
        f" {tmp_path}/unavailable.tif: the store fails (500); the same command tries again",
    )


def test_a_run_with_an_unavailable_file_does_the_rest_and_is_unfinished(
    tmp_path: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.tif", "unavailable.tif"):
        write_scene(tmp_path / "in" / name, 64, 64)
    settings = Settings(window=64, stride=64)
    arguments = [str(tmp_path / "in")], small_checkpoint, str(tmp_path / "out"), settings
    with monkeypatch.context() as patch:
        patch.setattr(
            pipeline.imagery.raster, "describe_file", crashing_headers.describe_or_failure
        )
        with pytest.raises(UnfinishedError, match=r"does not give .*/unavailable.tif; all"):
            run(*arguments, Execution(runner="local"))
    (receipt,) = status(str(tmp_path / "out")).runs
    assert (receipt["scenes_done"], receipt["scenes_quarantined"]) == (1, 0)
    assert "does not give" in receipt["ended"]
    assert run(*arguments, Execution(runner="local")).scenes_done == 2

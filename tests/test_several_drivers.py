"""Several drivers on one output: the rows of one driver, and which drivers are refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.api import plan, run
from pipeline.errors import UnfinishedError, UsageError
from pipeline.output.locks import PLANNING
from pipeline.output.status import status
from pipeline.planning.machine import Machine
from pipeline.planning.planner import SHARDS_PER_DRIVER, Planner
from pipeline.planning.workload import Network, Workload
from pipeline.progress import Progress
from pipeline.receipt import Receipt
from pipeline.scene import Scene
from pipeline.settings import Execution, Settings
from pipeline.share import Share
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.storage.schemes import open_store
from tests.support.archives import write_scene
from tests.support.outputs import Place, differences, files, receipts, rows, stray_files

SETTINGS = Settings(window=64, stride=48, batch=1)
SCENES, DRIVERS = 9, 3


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes that are each a shard and about a second of work, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("archive")
    for n in range(SCENES):
        write_scene(folder / f"{n}.tif", 900, 700, seed=n)
    (folder / "text.tif").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def one_driver(
    archive: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("oracle") / "out"
    local = Execution(runner="local")
    run([str(archive)], small_checkpoint, str(out), SETTINGS, local)
    return out


def start_driver(archive: Path, checkpoint: str, out: Place, number: int) -> subprocess.Popen[str]:
    options = f"--window 64 --stride 48 --batch 1 --runner local --shards {number}/{DRIVERS}"
    command = [sys.executable, "-m", "jobs.cli", "run", str(archive), *options.split()]
    command += ["--checkpoint", checkpoint, "--output", str(out)]
    return subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


def has_started(out: Place, number: int) -> bool:
    """Whether any unit of the share has its file."""
    first = f"{number - 1:06d}"
    return any(name.startswith((f"work/{first}", f"commits/{first}")) for name in files(out))


@pytest.fixture(params=["disk", pytest.param("bucket", marks=pytest.mark.s3)])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """The place of a new output, on disk or in a bucket."""
    if request.param == "disk":
        return tmp_path / "out"
    request.getfixturevalue("s3")
    return f"{request.getfixturevalue('s3_folder')}/out"


@pytest.mark.slow
def test_three_drivers_at_once_leave_the_rows_of_one_even_if_one_is_killed(
    archive: Path, small_checkpoint: str, one_driver: Path, out: Place
) -> None:
    processes = {n: start_driver(archive, small_checkpoint, out, n) for n in range(1, DRIVERS + 1)}
    try:
        deadline = time.monotonic() + 120
        while not has_started(out, 2):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(processes[2].pid, signal.SIGKILL)
        processes[2].communicate()
        assert not status(str(out)).finished
        processes[2] = start_driver(archive, small_checkpoint, out, 2)
        outputs = {n: process.communicate(timeout=200) for n, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    codes = [process.returncode for process in processes.values()]
    assert sorted(codes) == [0, 0, 3], outputs  # one has the text file among its shards
    assert differences(one_driver, out) == []
    assert stray_files(out) == []
    report = status(str(out))
    assert (report.finished, report.scenes, report.quarantined) == (True, SCENES + 1, 1)
    planned = [receipt["scenes_planned"] for receipt in receipts(out)]
    assert sum(planned) == SCENES + 1


def segment(archive: Path, checkpoint: str, out: Place, share: Share, **options: object) -> Receipt:
    execution = Execution(runner="local", shards=share, **options)  # type: ignore[arg-type]
    return run([str(archive)], checkpoint, str(out), SETTINGS, execution)


@pytest.mark.slow
def test_drivers_one_after_the_other_leave_the_rows_of_one(
    archive: Path, small_checkpoint: str, one_driver: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = [segment(archive, small_checkpoint, out, Share(n, 2)) for n in (2, 1)]
    assert [receipt.scenes_planned for receipt in done] == [4, 6]
    assert differences(one_driver, out) == []
    assert stray_files(out) == []
    # A lock that a dead driver has left is cleared.
    (out / "lock-plan.json").touch()
    # Another division of the same plan, and one driver: nothing is left to do.
    for share in (Share(3, 4), Share()):
        assert segment(archive, small_checkpoint, out, share).units_computed == 0
    assert stray_files(out) == []


@pytest.mark.parametrize(
    ("first_share", "second_share", "refused"),
    [
        (Share(), Share(), True),
        (Share(), Share(1, 3), True),
        (Share(1, 3), Share(), True),
        (Share(1, 3), Share(1, 3), True),
        (Share(1, 3), Share(2, 4), True),
        (Share(1, 3), Share(2, 3), False),
    ],
    ids=str,
)
def test_drivers_may_run_together_only_on_different_shares_of_one_division(
    small_checkpoint: str, tmp_path: Path, first_share: Share, second_share: Share, refused: bool
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(3):
        write_scene(folder / f"{n}.tif", 100, 80, seed=n)
    outcomes: list[str] = []

    def run_second_driver(_: Progress) -> None:
        if not outcomes:
            at_work = [driver.shards for driver in status(str(out)).at_work]
            assert at_work == [None if first_share.whole else str(first_share)]
            try:
                segment(folder, small_checkpoint, out, second_share)
                outcomes.append("done")
            except UsageError as error:
                outcomes.append(str(error))

    execution = Execution(runner="local", shards=first_share)
    run([str(folder)], small_checkpoint, str(out), SETTINGS, execution, run_second_driver)
    assert ("another run is using this output" in outcomes[0]) is refused, outcomes
    assert (outcomes[0] == "done") is not refused
    assert stray_files(out) == [] or not refused


def test_a_later_driver_adds_nothing_to_the_plan(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(2):
        write_scene(folder / f"{n}.tif", 100, 80, seed=n)
    errors: list[str] = []

    def run_second_driver(_: Progress) -> None:
        if not errors:
            write_scene(folder / "2.tif", 100, 80, seed=2)
            with pytest.raises(UnfinishedError) as error:
                segment(folder, small_checkpoint, out, Share(2, 2))
            errors.append(str(error.value))

    execution = Execution(runner="local", shards=Share(1, 2))
    run([str(folder)], small_checkpoint, str(out), SETTINGS, execution, run_second_driver)
    assert "2.tif cannot be planned while other drivers are at work here" in errors[0]
    assert rows(out, "scenes")["scene_id"].to_pylist() == ["0.tif", "1.tif"]
    segment(folder, small_checkpoint, out, Share(2, 2))  # plans it, alone
    segment(folder, small_checkpoint, out, Share(1, 2))
    assert rows(out, "scenes")["scene_id"].to_pylist() == ["0.tif", "1.tif", "2.tif"]


def test_a_driver_waits_while_another_one_plans(
    small_checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scene(tmp_path / "in" / "a.tif", 100, 80)
    out = tmp_path / "out"
    store = open_store(str(out), DEFAULT_ACCESS)
    arguments = tmp_path / "in", small_checkpoint, out, Share(1, 2)
    waiting_driver = threading.Thread(target=segment, args=arguments)
    with store.hold(PLANNING):
        waiting_driver.start()
        waiting_driver.join(5)
        assert waiting_driver.is_alive()
        assert not (out / "job.json").exists()
    waiting_driver.join(60)
    assert rows(out, "scenes").num_rows == 1
    assert any("another driver is planning" in message for message in caplog.messages)


def test_fixed_inputs_are_retried_by_one_driver_only(small_checkpoint: str, tmp_path: Path) -> None:
    """Two drivers that delete rows from one table would undo each other's work."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(4):
        (folder / f"{n}.tif").parent.mkdir(exist_ok=True)
        (folder / f"{n}.tif").write_text("no image")
    write_scene(folder / "good.tif", 100, 80)
    segment(folder, small_checkpoint, out, Share())
    for n in range(4):
        write_scene(folder / f"{n}.tif", 100, 80, seed=n)
    done = [segment(folder, small_checkpoint, out, Share(n, 2)) for n in (2, 1)]
    assert done[0].units_computed == 0
    assert done[1].scenes_quarantined == 0
    segment(folder, small_checkpoint, tmp_path / "fresh", Share())
    assert differences(tmp_path / "fresh", out) == []


def test_a_share_without_shards_is_noted(small_checkpoint: str, tmp_path: Path) -> None:
    write_scene(tmp_path / "in" / "a.tif", 700, 600)
    out, third = tmp_path / "out", Execution(runner="local", shards=Share(3, 3))
    inputs = [str(tmp_path / "in")]
    for notes in (
        plan(inputs, small_checkpoint, SETTINGS, third).notes,
        run(inputs, small_checkpoint, str(out), SETTINGS, third).notes,
    ):
        (note,) = (note for note in notes if "--shards" in note)
        assert note.startswith("--shards 3/3: 0 of the plan's 1 shards are this driver's; there")
    assert not status(str(out)).finished
    assert segment(tmp_path / "in", small_checkpoint, out, Share(1, 3)).scenes_done == 1
    assert status(str(out)).finished


@pytest.mark.parametrize("drivers", [1, 2, 5])
def test_there_are_shards_for_every_driver(drivers: int) -> None:
    scenes = [
        Scene(
            scene_id=f"{n}.tif",
            url=f"/in/{n}.tif",
            version="1-1",
            sidecars=(),
            width=700 + 10 * n,
            height=600,
            bands=(1, 2, 3),
            dtype="uint8",
            nodata=None,
            crs=None,
            transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6),
            datetime=None,
            striped=False,
        )
        for n in range(200)
    ]
    workload = Workload(SETTINGS, Machine("cpu", 2, 10**12, tasks=4), Network(4, 0.5, 10**8, 500))
    planner = Planner(workload, Execution(shards=Share(1, drivers)))
    shards = list(planner.shards(scenes, (), 0))
    if drivers == 1:
        assert len(shards) == 1
        return
    assert SHARDS_PER_DRIVER * drivers <= len(shards) <= 2 * SHARDS_PER_DRIVER * drivers
    units = [0] * drivers
    for shard in shards:
        units[int(shard.shard_id) % drivers] += len(shard.units)
    assert max(units) < 1.5 * min(units)


def test_a_refused_plan_leaves_nothing_behind(small_checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        segment(tmp_path / "gone", small_checkpoint, tmp_path / "out", Share(1, 2))
    assert not (tmp_path / "out").exists()

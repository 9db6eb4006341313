"""Runs that stop early: what they report, and what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline.api import plan, run
from pipeline.errors import TransientError, UnfinishedError, UsageError
from pipeline.estimate import EarlierRuns
from pipeline.output.status import status
from pipeline.progress import Progress
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from tests.support import s3_server
from tests.support.archives import write_scene
from tests.support.clusters import TOKEN, another_cluster, token_variables
from tests.support.outputs import differences, receipts, stray_files

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local", block=512)
OPTIONS = ["--window", "128", "--stride", "64", "--batch", "2", "--block", "512"]

Segment = Callable[..., Receipt]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A scene of two units."""
    write_scene(tmp_path / "in" / "wide.tif", 600, 90)
    return tmp_path / "in"


@pytest.fixture
def segment(archive: Path, small_checkpoint: str, tmp_path: Path) -> Segment:
    """A function that segments the archive into out/."""

    def once(execution: Execution = LOCAL, watch: Callable[[Progress], None] | None = None):
        return run(
            [str(archive)], small_checkpoint, str(tmp_path / "out"), SETTINGS, execution, watch
        )

    return once


def stop_after_one(progress: Progress) -> None:
    if progress.done_units == 1:
        raise KeyboardInterrupt


def test_a_run_that_is_stopped_leaves_its_receipt(
    archive: Path, small_checkpoint: str, segment: Segment, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        segment(watch=stop_after_one)
    (receipt,) = receipts(tmp_path / "out")
    assert receipt["ended"] == "stopped by hand"
    assert (receipt["units"], receipt["units_computed"]) == (2, 1)
    estimate = plan([str(archive)], small_checkpoint, SETTINGS, LOCAL, str(tmp_path / "out"))
    assert estimate.earlier == EarlierRuns(receipt["megapixels"], 0.0, 0)
    assert estimate.units == 1
    assert estimate.megapixels == pytest.approx(600 * 90 / 1e6 - receipt["megapixels"])
    segment()
    report = status(str(tmp_path / "out"))
    assert [(run["ended"], run["units_computed"]) for run in report.runs] == [
        ("stopped by hand", 1),
        ("done", 1),
    ]


def test_an_interrupt_while_ray_is_imported_leaves_no_run_that_seems_to_have_died(
    small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    write_scene(tmp_path / "in" / "a.tif", 100, 100)
    monkeypatch.setattr("pipeline.api.choose_runner", interrupt)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run([str(tmp_path / "in")], small_checkpoint, str(out), SETTINGS)
    report = status(str(out))
    assert (report.runs_without_receipt, report.died) == (0, False)


def test_a_run_that_gives_up_says_why_in_its_receipt(
    archive: Path, segment: Segment, tmp_path: Path
) -> None:
    torn = write_scene(archive / "torn.tif", 300, 300, tiled=False)
    whole = torn.read_bytes()
    torn.write_bytes(whole[:1000] + bytes(2000) + whole[3000:])
    with pytest.raises(UnfinishedError, match="--max-quarantined allows") as error:
        segment(Execution(runner="local", block=512, max_quarantined=0))
    (receipt,) = receipts(tmp_path / "out")
    assert receipt["ended"] == str(error.value)


def test_tables_that_are_gone_are_noticed(
    archive: Path, small_checkpoint: str, segment: Segment, tmp_path: Path
) -> None:
    calm, out = tmp_path / "calm", tmp_path / "out"
    run([str(archive)], small_checkpoint, str(calm), SETTINGS, LOCAL)
    segment()
    (table,) = (out / "masks").iterdir()
    table.unlink()
    named = rf"tables are gone \(1, the first is masks/{table.name}\); .*commits/(\S+)\)"
    with pytest.raises(UsageError, match=named):
        segment()
    with pytest.raises(UsageError, match=named):
        plan([str(archive)], small_checkpoint, SETTINGS, LOCAL, str(out))
    (out / "commits" / f"{table.stem}.json").unlink()
    assert segment().units_computed == 2
    assert differences(calm, out) == []
    assert stray_files(out) == []


def test_a_run_on_a_disk_without_links_and_locks_can_be_resumed(
    archive: Path, small_checkpoint: str, tmp_path: Path, poor_disk: Path
) -> None:
    calm, out = tmp_path / "calm", poor_disk / "out"
    arguments = [str(archive)], small_checkpoint, str(out), SETTINGS, LOCAL
    run([str(archive)], small_checkpoint, str(calm), SETTINGS, LOCAL)

    def stop_with_company(progress: Progress) -> None:
        if progress.done_units == 1:
            (driver,) = status(str(out)).at_work
            assert driver.pid == os.getpid()
            with pytest.raises(UsageError, match="another run is using this output"):
                run(*arguments)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*arguments, stop_with_company)
    assert status(str(out)).at_work == ()
    assert run(*arguments).units_computed == 1
    assert differences(calm, out) == []
    assert stray_files(out) == []


@pytest.fixture(scope="module")
def created(s3: s3_server.Server) -> s3_server.Credentials:
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto knows one user")
    credentials = s3_server.Credentials("PASSINGKEY0000000001", "passing-own-secret-" + "1" * 21)
    s3.add_user("passing", credentials)
    return credentials


@pytest.fixture
def user(s3: s3_server.Server, created: s3_server.Credentials) -> Iterator[s3_server.Credentials]:
    """A user who may do everything in the bucket "tests", as long as its policy allows it."""
    grant(s3)
    yield created
    s3.set_policy("tests", None)


def grant(s3: s3_server.Server) -> None:
    actions = ("s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:DeleteObject")
    s3.set_policy(
        "tests", s3_server.policy("tests", {"AWS": ["arn:aws:iam:::user/passing"]}, *actions)
    )


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_run_whose_rights_are_revoked_stops_and_can_be_resumed(
    s3: s3_server.Server,
    user: s3_server.Credentials,
    s3_folder: str,
    small_checkpoint: str,
    tmp_path: Path,
    runner: str,
) -> None:
    write_scene(tmp_path / "in" / "large.tif", 1500, 1500)
    out = f"{s3_folder}/out"
    command = [sys.executable, "-m", "jobs.cli", "run", str(tmp_path / "in"), *OPTIONS]
    command += ["--checkpoint", small_checkpoint, "--output", out, "--runner", runner]
    variables = {**os.environ, **s3.environment(), **user.environment()}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=variables)
    client = s3_server.client()
    while not client.find(f"{out}/work"):
        assert process.poll() is None
        time.sleep(0.05)
    s3.set_policy("tests", None)
    _, stderr = process.communicate(timeout=120)

    assert process.returncode == 1, stderr
    last = stderr.splitlines()[-1]
    assert last.startswith(f"swath: error: {out}")
    assert "may not do that here; check the bucket's policy (AccessDenied)" in last
    assert last.endswith("what is done is kept, the same command resumes the run")
    assert "Traceback" not in stderr

    grant(s3)
    command[command.index("--runner") + 1] = "local"
    resumed = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert resumed.returncode == 0, resumed.stderr
    command = [sys.executable, "-m", "jobs.cli", "status", out, "--format", "json"]
    report = subprocess.run(command, capture_output=True, env=variables, check=True)
    # The receipt of the first run could not be written.
    (receipt,) = json.loads(report.stdout)["runs"]
    assert 0 < receipt["units_computed"] < receipt["units"] == 9
    assert receipt["failures"] == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_run_whose_disk_fills_up_stops_and_can_be_resumed(
    small_checkpoint: str, tmp_path: Path
) -> None:
    archive, disk = tmp_path / "in", tmp_path / "disk"
    write_scene(archive / "large.tif", 1500, 1500)
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    out, execution = str(disk / "out"), Execution(replicas=1, block=512)
    try:
        with pytest.raises(UnfinishedError, match="No space left on device") as error:
            run([str(archive)], small_checkpoint, out, SETTINGS, execution)
        assert out in str(error.value)
        assert not isinstance(error.value, UsageError)
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        receipt = run([str(archive)], small_checkpoint, out, SETTINGS, LOCAL)
        assert (receipt.scenes_done, receipt.failures) == (1, ())
        assert stray_files(disk / "out") == []
        assert json.loads((disk / "out" / "job.json").read_text())
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_a_run_survives_a_spilling_object_store_and_its_full_disk(
    small_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A later round may find room again; if none does, the run ends and says why."""
    for name, value in token_variables(TOKEN).items():
        monkeypatch.setenv(name, value)
    archive, disk = tmp_path / "in", tmp_path / "spilled"
    for n in range(4):
        write_scene(archive / f"{n}.tif", 3072, 3072, seed=n)
    settings = Settings(window=1024, stride=1024, batch=1)
    local = Execution(runner="local")
    run([str(archive)], small_checkpoint, str(tmp_path / "calm"), settings, local)
    disk.mkdir()
    size = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    if subprocess.run(size, check=False).returncode:
        pytest.skip("may not mount")
    store = {"object_store_memory": 80 << 20, "object_spilling_directory": str(disk)}
    out = tmp_path / "out"
    try:
        with another_cluster(num_cpus=5, **store) as address:
            execution = Execution(address=address, replicas=1, block=3072)
            with suppress(UnfinishedError, TransientError):
                run([str(archive)], small_checkpoint, str(out), settings, execution)
            assert "OutOfDiskError" in caplog.text
            subprocess.run(["mount", "-o", "remount,size=2g", str(disk)], check=True)
            receipt = run([str(archive)], small_checkpoint, str(out), settings, execution)
            assert any(disk.rglob("*")), "nothing was spilled"
        assert (receipt.scenes_done, receipt.failures) == (4, ())
        assert differences(tmp_path / "calm", out) == []
        assert stray_files(out) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)

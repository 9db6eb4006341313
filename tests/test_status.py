"""`status` of outputs in the middle of a job, compared with a count of the records one by one."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.planning.planner
from pipeline.errors import UnfinishedError, UsageError
from pipeline.failure import Failure, Rejected
from pipeline.output.layout import Output, write_unit
from pipeline.output.outcomes import failures_in, outcome_of
from pipeline.output.replacement import current_shards, with_retries
from pipeline.output.resume import read_record
from pipeline.output.shard import Shard
from pipeline.output.status import status
from pipeline.receipt import Status
from pipeline.storage.local_store import LocalStore
from tests.support import unfinished_outputs
from tests.support.archives import write_scene
from tests.support.outputs import files
from tests.support.s3_server import Server


@pytest.fixture(params=["bundles", "blocks"])
def shape(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pipeline.planning.planner, "SHARD_UNITS", 4)
    return str(request.param)


@pytest.fixture
def unfinished(shape: str, tmp_path: Path) -> unfinished_outputs.UnfinishedOutput:
    """14 shards: 10 are committed, 4 half done; failures in some of both."""
    return unfinished_outputs.write_unfinished_output(str(tmp_path / "out"), planned(shape))


def planned(shape: str) -> list[Shard]:
    return unfinished_outputs.plan_shards(shape, units=56, side_blocks=2)


def check(report: Status, unfinished: unfinished_outputs.UnfinishedOutput) -> None:
    fields = report.to_json()
    assert {name: fields[name] for name in unfinished.expected} == pytest.approx(
        unfinished.expected
    )
    settled_megapixels = report.megapixels_done + report.megapixels_quarantined
    assert report.megapixels_open == pytest.approx(report.megapixels - settled_megapixels)
    assert not report.finished
    assert [run["ended"] for run in report.runs] == ["stopped by hand"] * 3


def record_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the paths that are read from now on."""
    paths: list[str] = []
    read = LocalStore.open

    def open_and_record(store: LocalStore, path: str) -> object:
        paths.append(path)
        return read(store, path)

    monkeypatch.setattr(LocalStore, "open", open_and_record)
    return paths


def test_status_counts_what_is_done_open_and_quarantined(
    unfinished: unfinished_outputs.UnfinishedOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = {name.split("/")[1] for name in files(unfinished.url) if name.startswith("work/")}
    assert len(half) == unfinished_outputs.HALF_DONE
    marked = {name for name in files(unfinished.url) if name.endswith(".failed")}
    paths = record_reads(monkeypatch)
    report = status(unfinished.url)
    check(report, unfinished)
    assert {path for path in paths if path.startswith("plan/")} == {f"plan/{s}.json" for s in half}
    read = {path for path in paths if path.startswith("work/")}
    assert read == {name.replace(".failed", ".parquet") for name in marked}
    check_by_counting(report, Output.open(unfinished.url))


def test_status_is_the_same_if_the_plan_index_is_missing_or_incomplete(
    unfinished: unfinished_outputs.UnfinishedOutput,
) -> None:
    index = Path(unfinished.url, "plan.json")
    whole = index.read_text()
    index.unlink()
    check(status(unfinished.url), unfinished)
    index.write_text(json.dumps({"shards": json.loads(whole)["shards"][1::2]}))
    check(status(unfinished.url), unfinished)
    Output.open(unfinished.url).append([])
    assert index.read_text() == whole


def test_runs_without_a_receipt_are_counted(
    unfinished: unfinished_outputs.UnfinishedOutput,
) -> None:
    """Every run writes its job file when it starts."""
    assert status(unfinished.url).runs_without_receipt == 0
    for receipt in Path(unfinished.url, "runs").glob("*.json"):
        receipt.with_suffix(".toml").touch()
    Path(unfinished.url, "runs", "20260101T000000.000000Z.toml").touch()
    report = status(unfinished.url)
    check(report, unfinished)
    assert report.runs_without_receipt == 1


@pytest.mark.slow
def test_status_names_the_driver_at_work_and_notices_its_death(
    small_checkpoint: str, tmp_path: Path
) -> None:
    write_scene(tmp_path / "in" / "large.tif", 1500, 1500)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.cli", "run", str(tmp_path / "in")]
    command += ["--checkpoint", small_checkpoint, "--output", str(out), "--runner", "local"]
    command += ["--window", "128", "--stride", "64", "--block", "512"]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not list(out.glob("work/*/*.parquet")):
            assert first.poll() is None
            time.sleep(0.01)
        report = status(str(out))
        (driver,) = report.at_work
        assert (driver.host, driver.pid, driver.shards) == (socket.gethostname(), first.pid, None)
        assert (report.died, report.runs_without_receipt) == (False, 1)
        first.send_signal(signal.SIGSTOP)  # otherwise it would finish before the other run starts
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"another run is using this output ({driver}); wait until it" in second.stderr
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    remaining = files(out)
    report = status(str(out))
    assert (report.at_work, report.died, report.runs_without_receipt) == ((), True, 1)
    assert files(out) == remaining
    assert "lock.json" in remaining
    subprocess.run(command, capture_output=True, check=True)
    report = status(str(out))
    assert (report.at_work, report.died, report.runs_without_receipt) == ((), False, 1)
    assert "lock.json" not in files(out)


def test_a_mark_without_its_file_or_without_failures_is_ignored(
    unfinished: unfinished_outputs.UnfinishedOutput,
) -> None:
    """A crash may leave the former, a retry of the unit the latter."""
    for path in list(Path(unfinished.url).glob("work/*/*.parquet")):
        path.with_suffix(".failed").touch()
    shard_id = next(Path(unfinished.url).glob("work/*")).name
    Path(unfinished.url, "work", shard_id, "0" * 24 + ".failed").touch()
    check(status(unfinished.url), unfinished)


def test_inputs_planned_again_and_rejected_inputs_are_counted_once(
    unfinished: unfinished_outputs.UnfinishedOutput, shape: str
) -> None:
    """One scene of every other shard is planned again in a later shard that has not started."""
    out = Output.open(unfinished.url)
    shards, before = list(out.shards()), status(unfinished.url)
    retried = {shard.scenes[0]: (shard.shard_id,) for shard in shards[::2]}
    text = Failure("text.tif", "/in/text.tif", "describe", None, "InputError", "not an image")
    new = unfinished_outputs.planner(shape).shards(
        tuple(retried), [Rejected("1-2", text)], len(shards)
    )
    out.append(with_retries(new, {scene.scene_id: tries for scene, tries in retried.items()}))
    report = status(unfinished.url)
    check_by_counting(report, out)
    assert report.scenes == before.scenes + 1
    # Units of open shards are dropped as a whole or not at all.
    assert report.megapixels >= before.megapixels
    assert report.megapixels_done < before.megapixels_done
    assert report.quarantined < before.quarantined
    assert 1 <= report.quarantined_waiting <= before.quarantined_waiting + 1


def check_by_counting(report: Status, out: Output) -> None:
    """Check a status against all records and units, read one by one."""
    records = {commit.shard_id: commit for commit in out.commits()}
    units = done = done_px = scenes = 0
    failures: list[Failure] = []
    for shard in current_shards(list(out.shards()), records.keys()):
        finished = out.units_done(shard.shard_id)
        ended = [u for u in shard.units if shard.shard_id in records or u.unit_id in finished]
        units, done = units + len(shard.units), done + len(ended)
        done_px += sum(unit.pixels for unit in ended)
        scenes += len(shard.scene_ids)
        failures += (rejected.failure for rejected in shard.rejected)
        if shard.shard_id in records:
            failures += failures_in(records[shard.shard_id], shard)
        else:
            for unit in ended:
                failures += failures_in(outcome_of(out, unit), shard)
    failed_px = sum(failure.pixels for failure in failures)
    assert (report.units, report.units_done, report.scenes) == (units, done, scenes)
    assert report.quarantined + report.quarantined_waiting == len(failures)
    assert report.megapixels_quarantined == failed_px / 1e6
    assert report.megapixels_done == (done_px - failed_px) / 1e6


def test_a_shard_published_while_the_record_is_read_is_an_error(
    unfinished: unfinished_outputs.UnfinishedOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read = Output.open(unfinished.url), Output.commits
    open_shards = {name.split("/")[1] for name in files(unfinished.url) if name.startswith("work/")}

    def publish_meanwhile(output: Output) -> Iterator[dict[str, object]]:
        records = list(read(output))
        for shard_id in open_shards:  # as publishing does at its end
            output.store.delete_folder(f"work/{shard_id}")
        return iter(records)

    monkeypatch.setattr(Output, "commits", publish_meanwhile)
    with pytest.raises(UnfinishedError, match=r"out: a run has published shard .*; ask again"):
        read_record(out)


def test_a_status_names_its_output_by_an_absolute_path(
    unfinished: unfinished_outputs.UnfinishedOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(unfinished.url).parent)
    assert status("out").output == unfinished.url


def test_the_mark_of_a_unit_with_failures_is_written_before_its_file(
    unfinished: unfinished_outputs.UnfinishedOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the two leaves a unit that is computed again, not one whose failures are
    overlooked."""
    out = Output.open(unfinished.url)
    shard = next(shard for shard in out.shards() if not out.units_done(shard.shard_id))
    unit, write = shard.units[0], LocalStore.write

    def crash_before_the_file(store: LocalStore, path: str, data: bytes) -> None:
        if path.endswith(".parquet"):
            raise KeyboardInterrupt
        write(store, path, data)

    monkeypatch.setattr(LocalStore, "write", crash_before_the_file)
    with pytest.raises(KeyboardInterrupt):
        write_unit(out.store, unit, b"rows", failed=True)
    monkeypatch.undo()
    assert out.unit_files(shard.shard_id).done == set()
    out.store.write(f"work/{shard.shard_id}/{unit.unit_id}.parquet", b"rows")
    assert out.unit_files(shard.shard_id).failed == {unit.unit_id}


def test_an_unfinished_plan_of_another_version_is_named(
    unfinished: unfinished_outputs.UnfinishedOutput,
) -> None:
    path = sorted(Path(unfinished.url, "plan").iterdir())[0]
    record = json.loads(path.read_text())
    del record["format"]
    path.write_text(json.dumps(record))
    with pytest.raises(
        UsageError, match=r"a plan of format 1, not 2.*name a new --output"
    ) as error:
        read_record(Output.open(unfinished.url))
    assert str(path) in str(error.value)


@pytest.mark.s3
def test_status_counts_the_same_on_s3(shape: str, s3: Server, s3_folder: str) -> None:
    assert s3.url
    unfinished = unfinished_outputs.write_unfinished_output(f"{s3_folder}/out", planned(shape))
    check(status(unfinished.url), unfinished)

"""Failing inputs: when too many of them stop a run, and files that change between runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipeline.stages
from pipeline.api import plan
from pipeline.driver.quarantine import Quarantine
from pipeline.errors import UnfinishedError, UsageError
from pipeline.failure import Failure
from pipeline.settings import Execution
from pipeline.stages import Work
from pipeline.unit import ReadUnit, SegmentedUnit, Unit
from tests.support.broken_inputs import (
    SETTINGS,
    check_counts,
    check_no_row_twice,
    crash_run,
    plan_files,
    put,
    segment,
    units_on_disk,
)
from tests.support.outputs import differences, rows


def failure(scene_id: str, error: str = "OSError", message: str = "broken") -> Failure:
    return Failure(scene_id, f"/in/{scene_id}", "read", None, error, message)


@pytest.mark.parametrize(
    ("failed", "planned", "allowed", "stops"),
    [
        (100, 100, None, False),
        (101, 10_099, None, True),
        (101, 10_100, None, False),
        (0, 10, 0, False),
        (1, 10_000, 0, True),
        (500, 500, 500, False),
    ],
)
def test_a_run_stops_if_more_inputs_fail_than_are_allowed(
    failed: int, planned: int, allowed: int | None, stops: bool
) -> None:
    quarantine = Quarantine(planned, allowed)
    quarantine.add(failure(f"{n}.tif") for n in range(failed) for _ in range(2))
    assert (quarantine.too_many() is not None) == stops


@pytest.mark.parametrize(
    ("folders", "place"),
    [
        (["a/b/c", "a/b/cd", "a/b"], "all are in a/b/, "),
        (["a", "ab"], ""),
        (["", "a"], ""),
        (["a/b"], "all are in a/b/, "),
    ],
)
def test_the_message_names_what_the_failures_have_in_common(folders: list[str], place: str) -> None:
    quarantine = Quarantine(10, 0)
    quarantine.add([failure(f"{folder}/other.tif".lstrip("/"), "E", "x") for folder in folders[:1]])
    quarantine.add(
        [failure(f"{folder}/{n}.tif".lstrip("/")) for n in range(2) for folder in folders]
    )
    count = 2 * len(folders)
    assert quarantine.too_many() == (
        f"{count + 1} of 10 inputs cannot be used, more than the 0 that --max-quarantined allows:"
        f" {count} of them ({100 * count // (count + 1)} %) failed in stage read with OSError,"
        f" {place}the first: broken"
    )


def test_headers_that_cannot_be_read_stop_the_run_before_it_writes(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    put(folder / "good.tif", contents["good0"])
    for n in range(101):
        put(folder / "sub" / f"{n}.tif", contents["text"])
    with pytest.raises(UsageError) as stopped:
        segment(folder, small_checkpoint, out)
    assert "101 of 102 inputs cannot be used, more than the 100 that are allowed: 101 of them" in (
        str(stopped.value)
    )
    assert "(100 %) failed in stage describe with RasterioIOError, all are in sub/, the first" in (
        str(stopped.value)
    )
    remedy = "Fix that and run again, or allow more with --max-quarantined N; nothing was changed"
    assert str(stopped.value).endswith(remedy)
    assert not out.exists()
    execution = Execution(runner="local")
    notes = plan([str(folder)], small_checkpoint, SETTINGS, execution).notes
    assert any("the run will stop: 101 of 102" in note for note in notes)

    (folder / "sub" / "0.tif").unlink()
    receipt = segment(folder, small_checkpoint, out)
    check_counts(out, receipt)
    assert receipt.scenes_quarantined == 100
    put(folder / "sub" / "0.tif", contents["text"])
    with pytest.raises(UsageError, match=r"101 of 102.*with --retry-quarantined if the files stay"):
        segment(folder, small_checkpoint, out)
    assert plan_files(out) == 1
    receipt = segment(folder, small_checkpoint, out, max_quarantined=101)
    check_counts(out, receipt)
    assert receipt.scenes_quarantined == 101
    segment(folder, small_checkpoint, out)  # nothing is left that could stop it


def test_pixels_that_cannot_be_read_stop_the_run(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(130):
        put(folder / "archive" / "bad" / f"{n:03d}.tif", contents["bad0"])
    put(folder / "archive" / "good.tif", contents["good0"])
    put(folder / "last.tif", contents["good1"])
    with pytest.raises(UnfinishedError) as stopped:
        segment(folder, small_checkpoint, out)
    done = units_on_disk(out)
    assert 101 <= int(str(stopped.value).split(": ")[1].split()[0]) < 130
    assert "of 132 inputs cannot be used, more than the 100 that are allowed: 1" in (
        str(stopped.value)
    )
    assert "failed in stage read with RasterioIOError, all are in archive/bad/, the first: " in (
        str(stopped.value)
    )
    assert f"{folder}/archive/bad/000.tif" in str(stopped.value)
    assert str(stopped.value).endswith("with --max-quarantined N; what is done is kept")

    with pytest.raises(UnfinishedError) as resumed:
        segment(folder, small_checkpoint, out)
    assert str(resumed.value) == str(stopped.value)
    assert units_on_disk(out) == done > 0
    assert not list(out.glob("commits/*"))
    receipt = segment(folder, small_checkpoint, out, max_quarantined=130)
    check_counts(out, receipt)
    assert receipt.units_computed == receipt.units - done > 0
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 130)


@pytest.mark.ray
@pytest.mark.slow
def test_too_many_failures_stop_a_run_on_ray(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    for n in range(8):
        put(tmp_path / "in" / f"{n}.tif", contents["bad0"])
    paths = [tmp_path / "in", "--checkpoint", small_checkpoint, "--output", tmp_path / "out"]
    options = ["--window", "64", "--stride", "48", "--replicas", "1", "--max-quarantined", "3"]
    # In a separate process, because Ray is stopped in the middle of its work.
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", *paths, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "of 8 inputs cannot be used, more than the 3 that --max-quarantined" in done.stderr
    assert "Traceback" not in done.stderr
    assert units_on_disk(tmp_path / "out") > 0


@pytest.mark.parametrize("unseen", [False, True])
def test_a_stopped_run_resumes_once_its_files_are_fixed(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path, unseen: bool
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(12):
        put(folder / f"{n:02d}.tif", contents["bad0"])
    put(folder / "text.tif", contents["text"])
    with pytest.raises(UnfinishedError, match="9 of 13 inputs"):  # a unit holds several scenes
        segment(folder, small_checkpoint, out, max_quarantined=5)
    for n in range(12):
        put(folder / f"{n:02d}.tif", contents["good0"], unseen=unseen)
    receipt = segment(folder, small_checkpoint, out, max_quarantined=5, retry_quarantined=unseen)
    check_counts(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (12, 1)
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def test_files_that_change_before_they_are_read_are_planned_again(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(12):
        put(folder / f"{n:02d}.tif", contents["good0"])
    assert crash_run(7, folder, small_checkpoint, out)
    (first,) = (pq.read_table(file) for file in out.glob("work/*/*.parquet"))
    done = set(first["scene_id"].to_pylist())
    for n in range(12):
        put(folder / f"{n:02d}.tif", contents["good1"])
    receipt = segment(folder, small_checkpoint, out)
    check_counts(out, receipt)
    assert (receipt.scenes_done, receipt.failures) == (12, ())
    assert any(n.startswith(f"{len(done)} inputs have changed since") for n in receipt.notes)
    for name in done:
        put(folder / name, contents["good0"])
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def test_versions_of_a_file_that_changes_back_and_forth_are_not_mixed(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(8):
        put(folder / f"{n}.tif", contents["good0"])
    assert crash_run(7, folder, small_checkpoint, out)
    last, before = folder / "7.tif", (folder / "7.tif").stat().st_mtime_ns
    put(last, contents["good1"])
    assert crash_run(1, folder, small_checkpoint, out)
    assert plan_files(out) == 2
    put(last, contents["good0"])
    os.utime(last, ns=(before, before))
    published = out / "masks" / "000000.parquet"
    after = 4  # the unit of the first run counts, too
    while crash_run(after := after + 1, folder, small_checkpoint, out):
        check_no_row_twice(out)
        if published.exists():
            assert "7.tif" not in pq.read_table(published)["scene_id"].to_pylist()
    check_counts(out, segment(folder, small_checkpoint, out))
    assert plan_files(out) == 3
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


@pytest.mark.parametrize("blocks", [1, 3])
def test_memory_errors_quarantine_only_a_scene_that_fails_alone(
    small_checkpoint: str,
    contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
) -> None:
    """No unit of several scenes fits, and huge.tif takes too much even alone."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(8):
        put(folder / f"{n}.tif", contents["good0"])
    put(folder / "huge.tif", contents["good0" if blocks == 1 else "tall"])
    read = Work.read

    def read_with_little_memory(work: Work, unit: Unit) -> ReadUnit:
        if len(unit.blocks) > 1 or unit.blocks[0].scene.scene_id == "huge.tif":
            raise MemoryError("cannot allocate 9 bytes")
        return read(work, unit)

    monkeypatch.setattr(Work, "read", read_with_little_memory)
    receipt = segment(folder, small_checkpoint, out)
    check_counts(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (8, 1)
    failures = rows(out, "quarantine").to_pylist()
    assert {(row["scene_id"], row["error"]) for row in failures} == {("huge.tif", "memory")}
    assert len(failures) == blocks
    assert "took more memory than it may: cannot allocate 9 bytes" in failures[0]["message"]


def test_a_lack_of_memory_while_a_units_file_is_made_is_the_fault_of_the_scene_that_causes_it(
    small_checkpoint: str,
    contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Ray, where `pipeline.cluster.isolation` finds it."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for name in ("0", "1", "huge"):
        put(folder / f"{name}.tif", contents["good0"])
    real = pipeline.stages.unit_file

    def file_with_little_memory(segmented: SegmentedUnit) -> bytes:
        for block, result in zip(segmented.unit.blocks, segmented.blocks, strict=True):
            if block.scene.scene_id == "huge.tif" and not isinstance(result, Failure):
                raise MemoryError("cannot allocate 9 bytes")
        return real(segmented)

    monkeypatch.setattr(pipeline.stages, "unit_file", file_with_little_memory)
    receipt = segment(folder, small_checkpoint, out)
    check_counts(out, receipt)
    (row,) = rows(out, "quarantine").to_pylist()
    assert (row["scene_id"], row["stage"], row["error"]) == ("huge.tif", "finish", "memory")

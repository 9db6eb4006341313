"""Inputs that fail: when too many of them stop the run, and what trying again leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import s3server
from archives import write_scene
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import ORDER, differences, rows, stray_files

from pipeline.disk import LocalStore
from pipeline.errors import UnfinishedError, UsageError
from pipeline.job import plan, run
from pipeline.quarantine import Quarantine
from pipeline.query import query
from pipeline.receipt import Failure, Receipt
from pipeline.scene import Unit
from pipeline.settings import Execution, Settings
from pipeline.stages import Work
from pipeline.status import status
from pipeline.unit import ReadUnit

SETTINGS = Settings(window=64, stride=48, batch=1)
SHORT, TALL = (60, 50), (64, 1100)
"""Of one block, and of three blocks of 512 rows."""


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of scenes, good and damaged: `good0`, `bad0`, ... `tall`, `torn` (a block of it
    cannot be read). Damage does not change the size. And a file that is no image."""
    folder = tmp_path_factory.mktemp("contents")
    rng = np.random.default_rng(0)
    files = {"text": b"this is no image"}
    for name, damaged, (width, height) in (
        *((f"good{n}", f"bad{n}", SHORT) for n in range(5)),
        ("tall", "torn", TALL),
    ):
        noise = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
        path = write_scene(folder / "a.tif", width, height, values=noise, tiled=False)
        files[name] = path.read_bytes()
        end = len(files[name])
        files[damaged] = files[name][: end - 3000] + bytes(2000) + files[name][end - 1000 :]
    return files


def put(path: Path, content: bytes, *, unseen: bool = False) -> None:
    """unseen: as if the file were the one that was there before, by its size and time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.stat().st_mtime_ns if path.exists() else None
    path.write_bytes(content)
    if before is not None:
        step = 0 if unseen else 10_000_000  # a clock too coarse would hide the change
        os.utime(path, ns=(before + step, before + step))


def segment(inputs: Path, checkpoint: str, out: Path | str, **execution: Any) -> Receipt:
    how = Execution(**{"runner": "local", "block": 512, **execution})
    return run([str(inputs)], checkpoint, str(out), SETTINGS, how)


def units_on_disk(out: Path) -> int:
    return len(list(out.glob("work/*/*.parquet")))


def plan_files(out: Path) -> int:
    return len(list((out / "plan").iterdir()))


def check_books(out: Path, receipt: Receipt) -> None:
    """Receipt, status and tables count the same."""
    scenes = rows(out, "scenes").to_pylist()
    count = Counter(row["status"] for row in scenes)
    assert receipt.scenes_planned == len(scenes) == len({row["scene_id"] for row in scenes})
    assert receipt.scenes_done == count["done"]
    assert receipt.scenes_partial == count["partial"]
    assert receipt.scenes_quarantined == count["quarantined"]
    failures = sorted(rows(out, "quarantine").to_pylist(), key=str)
    assert sorted((f.to_json() for f in receipt.failures), key=str) == failures
    told = status(str(out))
    assert told.finished
    assert told.scenes == told.scenes_published == len(scenes)
    assert told.quarantined == len(failures)
    assert told.units == told.units_done == receipt.units
    failed_px = sum(failure.pixels for failure in receipt.failures)
    assert told.megapixels_quarantined == failed_px / 1e6
    assert told.megapixels_done == pytest.approx(told.megapixels - failed_px / 1e6)
    assert stray_files(out) == []


def check_nothing_twice(out: Path) -> None:
    """In any file of a table, published or not, as a reader by glob would see it."""
    for table, key in ORDER.items():
        if any((out / table).glob("*.parquet")):
            keys = [tuple(row.values()) for row in rows(out, table).select(key).to_pylist()]
            assert len(keys) == len(set(keys)), table


# How many may fail


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
def test_the_limit(failed: int, planned: int, allowed: int | None, stops: bool) -> None:
    so_far = Quarantine(planned, allowed)
    so_far.add(failure(f"{n}.tif") for n in range(failed) for _ in range(2))
    assert (so_far.too_many() is not None) == stops


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (["a/b/c", "a/b/cd", "a/b"], "all lie in a/b/, "),
        (["a", "ab"], ""),
        (["", "a"], ""),
        (["a/b"], "all lie in a/b/, "),
    ],
)
def test_what_they_have_in_common(folders: list[str], says: str) -> None:
    so_far = Quarantine(10, 0)
    so_far.add([failure(f"{folder}/other.tif".lstrip("/"), "E", "x") for folder in folders[:1]])
    so_far.add([failure(f"{folder}/{n}.tif".lstrip("/")) for n in range(2) for folder in folders])
    count = 2 * len(folders)
    assert so_far.too_many() == (
        f"{count + 1} of 10 inputs cannot be used, more than the 0 that --max-quarantined allows:"
        f" {count} of them ({100 * count // (count + 1)} %) failed in stage read with OSError,"
        f" {says}the first: broken. Mend that and run again with --retry-quarantined, or allow more"
        " with --max-quarantined N"
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
    assert "(100 %) failed in stage describe with RasterioIOError, all lie in sub/, the first" in (
        str(stopped.value)
    )
    assert not out.exists()
    execution = Execution(runner="local")
    notes = plan([str(folder)], small_checkpoint, SETTINGS, execution).notes
    assert any("the run will stop: 101 of 102" in note for note in notes)

    (folder / "sub" / "0.tif").unlink()
    receipt = segment(folder, small_checkpoint, out)
    check_books(out, receipt)
    assert receipt.scenes_quarantined == 100
    put(folder / "sub" / "0.tif", contents["text"])
    with pytest.raises(UsageError, match="101 of 102"):
        segment(folder, small_checkpoint, out)
    assert plan_files(out) == 1
    receipt = segment(folder, small_checkpoint, out, max_quarantined=101)
    check_books(out, receipt)
    assert receipt.scenes_quarantined == 101
    segment(folder, small_checkpoint, out)  # nothing is left to be stopped


def test_pixels_that_cannot_be_read_stop_the_run(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(130):
        put(folder / "archive" / "bad" / f"{n:03d}.tif", contents["bad0"])
    put(folder / "archive" / "good.tif", contents["good0"])
    put(folder / "zuletzt.tif", contents["good1"])
    with pytest.raises(UnfinishedError) as stopped:
        segment(folder, small_checkpoint, out)
    done = units_on_disk(out)
    assert 101 <= int(str(stopped.value).split(": ")[1].split()[0]) < 130
    assert "of 132 inputs cannot be used, more than the 100 that are allowed: 1" in (
        str(stopped.value)
    )
    assert "failed in stage read with RasterioIOError, all lie in archive/bad/, the first: " in (
        str(stopped.value)
    )
    assert f"{folder}/archive/bad/000.tif" in str(stopped.value)
    assert str(stopped.value).endswith("with --max-quarantined N; what is done is kept")

    with pytest.raises(UnfinishedError) as again:
        segment(folder, small_checkpoint, out)
    assert str(again.value) == str(stopped.value)
    assert units_on_disk(out) == done > 0
    assert not list(out.glob("commits/*"))
    receipt = segment(folder, small_checkpoint, out, max_quarantined=130)
    check_books(out, receipt)
    assert receipt.units_computed == receipt.units - done > 0
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 130)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_is_stopped_too(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    for n in range(8):
        put(tmp_path / "in" / f"{n}.tif", contents["bad0"])
    paths = [tmp_path / "in", "--checkpoint", small_checkpoint, "--output", tmp_path / "out"]
    options = ["--window", "64", "--stride", "48", "--replicas", "1", "--max-quarantined", "3"]
    # In a process of its own, for Ray is cut off at its work.
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
def test_a_stopped_run_goes_on_once_its_files_are_mended(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path, unseen: bool
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(12):
        put(folder / f"{n:02d}.tif", contents["bad0"])
    put(folder / "text.tif", contents["text"])
    with pytest.raises(UnfinishedError, match="9 of 13 inputs"):  # a unit holds some scenes
        segment(folder, small_checkpoint, out, max_quarantined=5)
    for n in range(12):
        put(folder / f"{n:02d}.tif", contents["good0"], unseen=unseen)
    receipt = segment(folder, small_checkpoint, out, max_quarantined=5, retry_quarantined=unseen)
    check_books(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (12, 1)
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def test_files_that_change_before_their_turn_are_planned_again(
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
    check_books(out, receipt)
    assert (receipt.scenes_done, receipt.failures) == (12, ())
    assert any(n.startswith(f"{len(done)} inputs have changed since") for n in receipt.notes)
    for name in done:
        put(folder / name, contents["good0"])
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def test_a_file_that_changes_to_and_fro_is_not_mixed_in(
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
    after = 4  # the unit of the first try works too
    while crash_run(after := after + 1, folder, small_checkpoint, out):
        check_nothing_twice(out)
        if published.exists():
            assert "7.tif" not in pq.read_table(published)["scene_id"].to_pylist()
    check_books(out, segment(folder, small_checkpoint, out))
    assert plan_files(out) == 3
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_lack_of_memory_is_the_fault_of_what_is_alone_with_it(
    small_checkpoint: str,
    contents: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
) -> None:
    """Some take too much even alone, and no unit of several scenes fits."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(8):
        put(folder / f"{n}.tif", contents["good0"])
    put(folder / "huge.tif", contents["good0" if blocks == 1 else "tall"])
    read = Work.read

    def short(work: Work, unit: Unit) -> ReadUnit:
        if len(unit.blocks) > 1 or unit.blocks[0].scene.scene_id == "huge.tif":
            raise MemoryError("cannot allocate 9 bytes")
        return read(work, unit)

    monkeypatch.setattr(Work, "read", short)
    receipt = segment(folder, small_checkpoint, out)
    check_books(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (8, 1)
    failures = rows(out, "quarantine").to_pylist()
    assert {(row["scene_id"], row["error"]) for row in failures} == {("huge.tif", "memory")}
    assert len(failures) == blocks
    assert "took more memory than it may: cannot allocate 9 bytes" in failures[0]["message"]


# Trying again


@pytest.fixture
def broken(contents: dict[str, bytes], tmp_path: Path) -> Path:
    """An archive with a good scene, and each kind of bad one."""
    folder = tmp_path / "in"
    put(folder / "good.tif", contents["good0"])
    put(folder / "bad.tif", contents["bad1"])
    put(folder / "text.tif", contents["text"])
    put(folder / "sub" / "torn.tif", contents["torn"])
    return folder


def mend(folder: Path, contents: dict[str, bytes], unseen: bool = False) -> None:
    put(folder / "bad.tif", contents["good1"], unseen=unseen)
    put(folder / "text.tif", contents["good2"], unseen=unseen)
    put(folder / "sub" / "torn.tif", contents["tall"], unseen=unseen)


def test_mended_files_replace_their_old_rows(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    receipt = segment(broken, small_checkpoint, out)
    assert (receipt.scenes_done, receipt.scenes_partial, receipt.scenes_quarantined) == (1, 1, 2)
    check_books(out, receipt)
    partial = [row for row in rows(out, "masks").to_pylist() if row["scene_id"] != "good.tif"]
    assert {row["scene_id"] for row in partial} == {"sub/torn.tif"}

    mend(broken, contents)
    waiting = plan([str(broken)], small_checkpoint, SETTINGS, Execution(runner="local"), str(out))
    assert (waiting.scenes, waiting.rejected) == (3, ())
    receipt = segment(broken, small_checkpoint, out)
    assert "3 inputs are planned again: they failed, or changed before their turn" in receipt.notes
    check_books(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_planned) == (4, 4)
    segment(broken, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []
    assert segment(broken, small_checkpoint, out).units_computed == 0
    assert plan_files(out) == 2


def test_what_has_not_changed_is_tried_again_only_when_asked(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    before = {table: rows(out, table) for table in ORDER}
    mend(broken, contents, unseen=True)
    # The text has grown, which is seen; the others look as they did.
    receipt = segment(broken, small_checkpoint, out)
    assert (receipt.scenes_done, receipt.scenes_partial, receipt.scenes_quarantined) == (2, 1, 1)
    assert rows(out, "quarantine").num_rows == before["quarantine"].num_rows - 1
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    check_books(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_planned) == (4, 4)
    segment(broken, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []

    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    assert receipt.notes[-1] == "--retry-quarantined: none of these inputs is in quarantine"
    assert receipt.units_computed == 0


def test_what_is_still_broken_has_one_row_however_often_it_is_tried(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    before = tmp_path / "before"
    shutil.copytree(out, before)
    for tries in range(2, 4):
        receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
        check_books(out, receipt)
        assert differences(before, out) == []
        assert plan_files(out) == tries
    mend(broken, contents)
    check_books(out, segment(broken, small_checkpoint, out))
    segment(broken, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def test_a_file_that_vanished_stays_in_quarantine(
    small_checkpoint: str, broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    (broken / "bad.tif").unlink()
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    check_books(out, receipt)
    assert "bad.tif" in rows(out, "quarantine")["scene_id"].to_pylist()


def test_a_file_that_was_never_broken_is_not_tried_again(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    put(broken / "good.tif", contents["good3"])
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    assert any("1 input has changed since it was planned" in n for n in receipt.notes)
    check_books(out, receipt)


def test_retried_inputs_do_not_count_until_they_fail_again(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(4):
        put(folder / f"{n}.tif", contents["bad0"])
    put(folder / "4.tif", contents["good0"])
    segment(folder, small_checkpoint, out, max_quarantined=4)
    before = rows(out, "quarantine")
    with pytest.raises(UnfinishedError, match="4 of 5 inputs"):
        segment(folder, small_checkpoint, out, max_quarantined=1, retry_quarantined=True)
    assert rows(out, "quarantine").equals(before)  # until the retry is complete
    told = status(str(out))
    assert (told.scenes, told.scenes_published, told.quarantined) == (5, 1, 0)
    for n in range(4):
        put(folder / f"{n}.tif", contents["good1"])
    receipt = segment(folder, small_checkpoint, out, max_quarantined=1)
    check_books(out, receipt)
    assert receipt.scenes_done == 5


@pytest.mark.s3
def test_retry_on_s3(
    small_checkpoint: str,
    contents: dict[str, bytes],
    broken: Path,
    s3_folder: str,
    tmp_path: Path,
) -> None:
    out = f"{s3_folder}/out"
    segment(broken, small_checkpoint, out)
    mend(broken, contents)
    receipt = segment(broken, small_checkpoint, out)
    assert (receipt.scenes_done, receipt.scenes_planned) == (4, 4)
    segment(broken, small_checkpoint, tmp_path / "fresh")
    fs = s3server.client()
    fs.get(out.removeprefix("s3://"), str(tmp_path / "here"), recursive=True)
    assert differences(tmp_path / "fresh", tmp_path / "here") == []
    assert query(out, "SELECT count(*) AS n FROM quarantine").to_pylist() == [{"n": 0}]


# Crashes


class Crash(BaseException):
    """The end of the process, as far as one process can see its own."""


@contextmanager
def crashing(after: int) -> Iterator[list[str]]:
    """Lets this many changes of the output happen, then none. Gives the names of those."""
    changes: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("writing", "create", "delete_folder"):
            real = getattr(LocalStore, name)

            def change(self: LocalStore, path: str, *data: bytes, real: Any = real) -> Any:
                if len(changes) == after:
                    raise Crash
                changes.append(path)
                return real(self, path, *data)

            patch.setattr(LocalStore, name, change)
        yield changes


def crash_run(after: int, folder: Path, checkpoint: str, out: Path, **how: Any) -> bool:
    """Whether it came so far."""
    with crashing(after):
        try:
            segment(folder, checkpoint, out, **how)
        except Crash:
            return True
    return False


@pytest.mark.slow
def test_a_crash_at_any_point_of_a_retry(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    first, fresh = tmp_path / "first", tmp_path / "fresh"
    segment(broken, small_checkpoint, first)
    mend(broken, contents)
    segment(broken, small_checkpoint, fresh)
    shutil.copytree(first, tmp_path / "calm")
    with crashing(1000) as changes:
        segment(broken, small_checkpoint, tmp_path / "calm")
    taken_out = [f"{table}/000000.parquet" for table in ("masks", "scenes", "quarantine")]
    assert changes.index("masks/000001.parquet") > max(changes.index(path) for path in taken_out)
    for after in range(len(changes)):
        out = tmp_path / f"out{after}"
        shutil.copytree(first, out)
        assert crash_run(after, broken, small_checkpoint, out)
        check_nothing_twice(out)
        told = status(str(out))
        published = told.scenes_published
        assert (told.scenes, published) in [(4, 4), (4, 1)]
        planned = (out / "plan" / "000001.json").exists()
        assert (
            told.finished
            == (published == 4)
            == (not planned or (out / "commits" / "000001.json").exists())
        )
        check_books(out, segment(broken, small_checkpoint, out))
        assert differences(fresh, out) == [], f"after {after} of {changes}"
        shutil.rmtree(out)


@pytest.mark.slow
def test_a_retry_of_a_retry_that_was_cut_short(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    """Three tries of one scene: published, computed but not published, and planned anew."""
    folder, before = tmp_path / "in", tmp_path / "before"
    put(folder / "bad.tif", contents["bad0"])
    put(folder / "good.tif", contents["good0"])
    segment(folder, small_checkpoint, before)
    with crashing(1000) as changes:
        shutil.copytree(before, tmp_path / "calm")
        segment(folder, small_checkpoint, tmp_path / "calm", retry_quarantined=True)
    shutil.rmtree(tmp_path / "calm")
    computed = next(n for n, path in enumerate(changes) if path.startswith("scenes/"))
    assert crash_run(computed, folder, small_checkpoint, before, retry_quarantined=True)
    assert units_on_disk(before) == 1

    put(folder / "bad.tif", contents["good1"])
    segment(folder, small_checkpoint, tmp_path / "fresh")
    for after in range(100):
        out = tmp_path / "out"
        shutil.copytree(before, out)
        crashed = crash_run(after, folder, small_checkpoint, out)
        check_nothing_twice(out)
        if not list(out.glob("*/000002*/*")) and not (out / "commits" / "000002.json").exists():
            assert "bad.tif" in rows(out, "scenes")["scene_id"].to_pylist()  # of the first try
        check_books(out, segment(folder, small_checkpoint, out))
        assert differences(tmp_path / "fresh", out) == [], after
        shutil.rmtree(out)
        if not crashed:
            break
    assert after > 10


def test_rows_that_a_slow_writer_puts_back_are_taken_out_again(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    old = (out / "masks" / "000000.parquet").read_bytes()
    mend(broken, contents)
    segment(broken, small_checkpoint, out)
    (out / "masks" / "000000.parquet").write_bytes(old)
    check_books(out, segment(broken, small_checkpoint, out))
    segment(broken, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


NAMES = ("0.tif", "1.tif", "sub/2.tif", "3.tif")
STATES = {"0.tif": ("good0", "bad0"), "1.tif": ("good1", "text"), "sub/2.tif": ("tall", "torn")}
STATES |= {"3.tif": ("good3", "bad3")}
ROUND = st.tuples(
    st.dictionaries(st.sampled_from(NAMES), st.integers(0, 1), max_size=4),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 30)),
)
"""Files to be changed and whether they become bad; whether to ask for a retry; when to crash."""


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(rounds=st.lists(ROUND, min_size=1, max_size=4))
def test_whatever_happens_the_rows_are_those_of_a_fresh_run(
    small_checkpoint: str,
    contents: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    rounds: list[tuple[dict[str, int], bool, int | None]],
) -> None:
    tmp_path = tmp_path_factory.mktemp("rounds")
    folder, out = tmp_path / "in", tmp_path / "out"
    put(folder / "never broken.tif", contents["good4"])
    for changes, retry, after in rounds:
        for name, bad in changes.items():
            # A scene that is done is not tried again, whatever becomes of its file.
            if name not in done(out):
                put(folder / name, contents[STATES[name][bad]])
        if after is None:
            check_books(out, segment(folder, small_checkpoint, out, retry_quarantined=retry))
        else:
            crash_run(after, folder, small_checkpoint, out, retry_quarantined=retry)
        check_nothing_twice(out)
    check_books(out, segment(folder, small_checkpoint, out, retry_quarantined=True))
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def done(out: Path) -> set[str]:
    """Scenes with pixels that this output will not read again."""
    found = set()
    for path in [*out.glob("scenes/*.parquet"), *out.glob("work/*/*.parquet")]:
        table = pq.read_table(path)
        kept = [True] * table.num_rows
        if "status" in table.column_names:
            kept = [state == "done" for state in table["status"].to_pylist()]
        ids = table["scene_id"].to_pylist()
        found |= {scene_id for scene_id, keep in zip(ids, kept, strict=True) if keep}
    return found

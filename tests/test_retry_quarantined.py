"""Retries of quarantined inputs: which rows count, whatever happens in the meantime."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.api import plan
from pipeline.errors import UnfinishedError
from pipeline.output.query import query
from pipeline.output.status import status
from pipeline.settings import Execution
from tests.support import s3_server
from tests.support.broken_inputs import (
    SETTINGS,
    check_counts,
    check_no_row_twice,
    crash_run,
    crashing,
    plan_files,
    put,
    segment,
    units_on_disk,
)
from tests.support.outputs import ORDER, differences, rows


@pytest.fixture
def broken(contents: dict[str, bytes], tmp_path: Path) -> Path:
    """An archive with a good scene and one bad scene of each kind."""
    folder = tmp_path / "in"
    put(folder / "good.tif", contents["good0"])
    put(folder / "bad.tif", contents["bad1"])
    put(folder / "text.tif", contents["text"])
    put(folder / "sub" / "torn.tif", contents["torn"])
    return folder


def fix_files(folder: Path, contents: dict[str, bytes], unseen: bool = False) -> None:
    put(folder / "bad.tif", contents["good1"], unseen=unseen)
    put(folder / "text.tif", contents["good2"], unseen=unseen)
    put(folder / "sub" / "torn.tif", contents["tall"], unseen=unseen)


def test_fixed_files_replace_their_old_rows(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    receipt = segment(broken, small_checkpoint, out)
    assert (receipt.scenes_done, receipt.scenes_partial, receipt.scenes_quarantined) == (1, 1, 2)
    check_counts(out, receipt)
    partial = [row for row in rows(out, "masks").to_pylist() if row["scene_id"] != "good.tif"]
    assert {row["scene_id"] for row in partial} == {"sub/torn.tif"}

    fix_files(broken, contents)
    estimate = plan([str(broken)], small_checkpoint, SETTINGS, Execution(runner="local"), str(out))
    assert (estimate.scenes, estimate.failures) == (3, ())
    receipt = segment(broken, small_checkpoint, out)
    again = "3 inputs are planned again: they failed, or changed before their turn, first "
    assert [note for note in receipt.notes if note.startswith(again)]
    check_counts(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_planned) == (4, 4)
    segment(broken, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []
    assert segment(broken, small_checkpoint, out).units_computed == 0
    assert plan_files(out) == 2


def test_files_that_look_unchanged_are_retried_only_on_request(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    before = {table: rows(out, table) for table in ORDER}
    fix_files(broken, contents, unseen=True)
    # The text has grown, which is noticed; the other files look unchanged.
    receipt = segment(broken, small_checkpoint, out)
    assert (receipt.scenes_done, receipt.scenes_partial, receipt.scenes_quarantined) == (2, 1, 1)
    assert rows(out, "quarantine").num_rows == before["quarantine"].num_rows - 1
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    check_counts(out, receipt)
    assert (receipt.scenes_done, receipt.scenes_planned) == (4, 4)
    segment(broken, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []

    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    assert receipt.notes[-1] == "--retry-quarantined: none of these inputs is in quarantine"
    assert receipt.units_computed == 0


def test_a_quarantined_file_that_is_gone_keeps_its_row_and_the_note_says_so(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    for name in ("text.tif", "bad.tif"):
        (broken / name).unlink()
    put(broken / "sub" / "torn.tif", contents["tall"], unseen=True)
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    again = "1 input is planned again: it failed, or changed before its turn, first "
    assert [note for note in receipt.notes if note.startswith(again)]
    assert (
        "--retry-quarantined: 2 inputs in quarantine are not among these INPUTs and their rows"
        f" stay, first {broken}/bad.tif: put it back or name it, or start a new --output"
        " without it"
    ) in receipt.notes
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 2)
    put(broken / "bad.tif", contents["good1"])
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    assert "1 input in quarantine is not among these INPUTs and its row stays" in "".join(
        receipt.notes
    )
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (3, 1)
    assert "in quarantine" not in "".join(segment(broken, small_checkpoint, out).notes)


def test_a_file_that_stays_broken_has_one_row_however_often_it_is_retried(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    before = tmp_path / "before"
    shutil.copytree(out, before)
    for tries in range(2, 4):
        receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
        check_counts(out, receipt)
        assert differences(before, out) == []
        assert plan_files(out) == tries
    fix_files(broken, contents)
    check_counts(out, segment(broken, small_checkpoint, out))
    segment(broken, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def test_a_file_that_vanished_stays_in_quarantine(
    small_checkpoint: str, broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    (broken / "bad.tif").unlink()
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    check_counts(out, receipt)
    assert "bad.tif" in rows(out, "quarantine")["scene_id"].to_pylist()


def test_a_file_that_was_never_broken_is_not_retried(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    put(broken / "good.tif", contents["good3"])
    receipt = segment(broken, small_checkpoint, out, retry_quarantined=True)
    assert any("1 input has changed since it was planned" in n for n in receipt.notes)
    check_counts(out, receipt)


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
    report = status(str(out))
    assert (report.scenes, report.scenes_published, report.quarantined) == (5, 1, 0)
    for n in range(4):
        put(folder / f"{n}.tif", contents["good1"])
    receipt = segment(folder, small_checkpoint, out, max_quarantined=1)
    check_counts(out, receipt)
    assert receipt.scenes_done == 5


@pytest.mark.s3
def test_a_retry_on_s3_leaves_the_rows_of_a_fresh_run(
    small_checkpoint: str,
    contents: dict[str, bytes],
    broken: Path,
    s3_folder: str,
    tmp_path: Path,
) -> None:
    out = f"{s3_folder}/out"
    segment(broken, small_checkpoint, out)
    fix_files(broken, contents)
    receipt = segment(broken, small_checkpoint, out)
    assert (receipt.scenes_done, receipt.scenes_planned) == (4, 4)
    segment(broken, small_checkpoint, tmp_path / "fresh")
    fs = s3_server.client()
    fs.get(out.removeprefix("s3://"), str(tmp_path / "here"), recursive=True)
    assert differences(tmp_path / "fresh", tmp_path / "here") == []
    assert query(out, "SELECT count(*) AS n FROM quarantine").to_pylist() == [{"n": 0}]


@pytest.mark.slow
def test_a_retry_that_crashes_at_any_point_can_be_resumed(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    first, fresh = tmp_path / "first", tmp_path / "fresh"
    segment(broken, small_checkpoint, first)
    fix_files(broken, contents)
    segment(broken, small_checkpoint, fresh)
    shutil.copytree(first, tmp_path / "calm")
    with crashing(1000) as changes:
        segment(broken, small_checkpoint, tmp_path / "calm")
    deletions = [f"{table}/000000.parquet" for table in ("masks", "scenes", "quarantine")]
    assert changes.index("masks/000001.parquet") > max(changes.index(path) for path in deletions)
    for after in range(len(changes)):
        out = tmp_path / f"out{after}"
        shutil.copytree(first, out)
        assert crash_run(after, broken, small_checkpoint, out)
        check_no_row_twice(out)
        report = status(str(out))
        published = report.scenes_published
        assert (report.scenes, published) in [(4, 4), (4, 1)]
        planned = (out / "plan" / "000001.json").exists()
        assert (
            report.finished
            == (published == 4)
            == (not planned or (out / "commits" / "000001.json").exists())
        )
        check_counts(out, segment(broken, small_checkpoint, out))
        assert differences(fresh, out) == [], f"after {after} of {changes}"
        shutil.rmtree(out)


@pytest.mark.slow
def test_a_retry_of_a_crashed_retry_leaves_the_rows_of_a_fresh_run(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    """One scene is tried three times: published, computed but not published, and planned anew."""
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
        check_no_row_twice(out)
        if not list(out.glob("*/000002*/*")) and not (out / "commits" / "000002.json").exists():
            # The row of the first try is still there.
            assert "bad.tif" in rows(out, "scenes")["scene_id"].to_pylist()
        check_counts(out, segment(folder, small_checkpoint, out))
        assert differences(tmp_path / "fresh", out) == [], after
        shutil.rmtree(out)
        if not crashed:
            break
    assert after > 10


def test_rows_that_a_slow_writer_restores_are_deleted_again(
    small_checkpoint: str, contents: dict[str, bytes], broken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(broken, small_checkpoint, out)
    old = (out / "masks" / "000000.parquet").read_bytes()
    fix_files(broken, contents)
    segment(broken, small_checkpoint, out)
    (out / "masks" / "000000.parquet").write_bytes(old)
    check_counts(out, segment(broken, small_checkpoint, out))
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
"""Files to change, and whether each becomes bad; whether to request a retry; when to crash."""


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(rounds=st.lists(ROUND, min_size=1, max_size=4))
def test_any_history_leaves_the_rows_of_a_fresh_run(
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
            # A scene that is done is not retried, whatever happens to its file.
            if name not in done(out):
                put(folder / name, contents[STATES[name][bad]])
        if after is None:
            check_counts(out, segment(folder, small_checkpoint, out, retry_quarantined=retry))
        else:
            crash_run(after, folder, small_checkpoint, out, retry_quarantined=retry)
        check_no_row_twice(out)
    check_counts(out, segment(folder, small_checkpoint, out, retry_quarantined=True))
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def done(out: Path) -> set[str]:
    """Scenes with pixels that this output will not read again."""
    scene_ids = set()
    for path in [*out.glob("scenes/*.parquet"), *out.glob("work/*/*.parquet")]:
        table = pq.read_table(path)
        kept = [True] * table.num_rows
        if "status" in table.column_names:
            kept = [state == "done" for state in table["status"].to_pylist()]
        ids = table["scene_id"].to_pylist()
        scene_ids |= {scene_id for scene_id, keep in zip(ids, kept, strict=True) if keep}
    return scene_ids

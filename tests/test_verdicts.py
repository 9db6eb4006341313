"""Errors of libraries in any stage: exactly the inputs at fault are quarantined."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

import pipeline.engine.replica
import pipeline.output.publishing
import pipeline.planning.forecast
from pipeline.api import plan, run, run_request
from pipeline.driver.request import Request
from pipeline.errors import UnfinishedError
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from tests.support import troubled_stages
from tests.support.archives import write_scene
from tests.support.broken_inputs import check_counts
from tests.support.commands import Swath
from tests.support.outputs import differences, receipts, rows

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local", block=512)
GOOD = ("a.tif", "b.tif", "c.tif")
RAY_WORDS = ("Failed to", "UDF", "UserCode", "ray.", "Traceback", "attempts")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three good inputs, ten that make a stage raise, and two that are really broken."""
    folder = tmp_path_factory.mktemp("archive") / "in"
    for name in GOOD:
        write_scene(folder / name, 90, 80)
    for stage in troubled_stages.ERRORS:
        write_scene(folder / f"{stage}.tif", 100, 70)
    for stage in ("read", "segment", "finish"):
        write_scene(folder / f"half-{stage}.tif", 60, 600)
    write_scene(folder / "tall-publish.tif", 60, 600).rename(folder / "publish.tif")
    (folder / "text.tif").write_text("this is no image")
    torn = write_scene(folder / "torn.tif", 200, 200, tiled=False)
    whole = torn.read_bytes()
    torn.write_bytes(whole[:1000] + bytes(500) + whole[1500:])
    return folder


@pytest.fixture(scope="module")
def calm(archive: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the good inputs alone."""
    folder = tmp_path_factory.mktemp("calm")
    for name in GOOD:
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / name).write_bytes((archive / name).read_bytes())
    run([str(folder / "in")], small_checkpoint, str(folder / "out"), SETTINGS, LOCAL)
    return folder / "out"


def segment(archive: Path, checkpoint: str, out: Path, execution: Execution) -> Receipt:
    """Segment the archive with stages that have trouble."""
    request = Request([str(archive)], checkpoint, SETTINGS, execution)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.imagery.raster.describe_file", troubled_stages.describe_or_failure)
        if execution.runner == "ray":
            return run_request(request, str(out), stages=troubled_stages.STAGES)
        troubled_stages.patch_all(patch)
        return run_request(request, str(out))


def check(receipt: Receipt, archive: Path, calm: Path, out: Path) -> None:
    """Check that exactly the inputs at fault are in quarantine, with their stages and reasons."""
    quarantine = rows(out, "quarantine").to_pylist()
    assert {(row["scene_id"], row["stage"], row["window"], row["error"]) for row in quarantine} == {
        ("describe.tif", "describe", None, "ZeroDivisionError"),
        ("text.tif", "describe", None, "RasterioIOError"),
        ("read.tif", "read", "0,0 100x70", "KeyError"),
        ("torn.tif", "read", "0,0 200x200", "RasterioIOError"),
        ("half-read.tif", "read", "0,512 60x88", "KeyError"),
        ("segment.tif", "segment", "0,0 100x70", "StrangeError"),
        ("half-segment.tif", "segment", "0,512 60x88", "StrangeError"),
        ("finish.tif", "finish", "0,0 100x70", "AssertionError"),
        ("half-finish.tif", "finish", "0,512 60x88", "AssertionError"),
        ("publish.tif", "publish", "0,0 60x512", "OverflowError"),
        ("publish.tif", "publish", "0,512 60x88", "OverflowError"),
    }
    assert not [note for note in receipt.notes if "outcome" in note or "isolation" in note]
    for row in quarantine:
        assert str(archive / row["scene_id"]) in row["message"]
        assert "\n" not in row["message"]
        assert not [words for words in RAY_WORDS if words in row["message"]]
    message = {row["scene_id"]: row["message"] for row in quarantine}
    assert message["segment.tif"] == (
        f"{archive}/segment.tif: window 0,0 100x70: segment failed with StrangeError: strange and"
        " long; replace the file or leave it out"
    )
    status_of = {row["scene_id"]: row["status"] for row in rows(out, "scenes").to_pylist()}
    assert {name for name, status in status_of.items() if status == "done"} == set(GOOD)
    partial = {name for name, status in status_of.items() if status == "partial"}
    assert partial == {"half-read.tif", "half-segment.tif", "half-finish.tif"}
    bare = next(r for r in rows(out, "scenes").to_pylist() if r["scene_id"] == "publish.tif")
    assert {name for name, value in bare.items() if value is not None} == {
        *("scene_id", "url", "status")
    }
    for table in ("masks", "statistics"):
        names = set(rows(out, table)["scene_id"].to_pylist())
        assert names == {*GOOD, *partial}
    check_counts(out, receipt)
    for table in ("masks", "statistics", "scenes"):
        ours, theirs = rows(out, table), rows(calm, table)
        good = ours.filter([name in GOOD for name in ours["scene_id"].to_pylist()])
        place = ["url"] if table == "scenes" else []
        assert good.drop_columns(place).equals(theirs.drop_columns(place))


def test_exactly_the_inputs_at_fault_are_quarantined(
    archive: Path, calm: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    receipt = segment(archive, small_checkpoint, out, LOCAL)
    check(receipt, archive, calm, out)
    assert segment(archive, small_checkpoint, out, LOCAL).failures == receipt.failures

    # A replaced library has no trouble: with --retry-quarantined only what is broken is left.
    retry = Execution(runner="local", block=512, retry_quarantined=True)
    receipt = run([str(archive)], small_checkpoint, str(out), SETTINGS, retry)
    check_counts(out, receipt)
    assert {failure.scene_id for failure in receipt.failures} == {"text.tif", "torn.tif"}
    run([str(archive)], small_checkpoint, str(tmp_path / "fresh"), SETTINGS, LOCAL)
    assert differences(tmp_path / "fresh", out) == []


@pytest.mark.ray
@pytest.mark.slow
def test_exactly_the_inputs_at_fault_are_quarantined_on_ray(
    archive: Path, calm: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    on_ray = Execution(replicas=1, block=512)
    check(segment(archive, small_checkpoint, out, on_ray), archive, calm, out)
    segment(archive, small_checkpoint, tmp_path / "local", LOCAL)
    assert differences(tmp_path / "local", out) == []


def fail(*_: object, **__: object) -> NoReturn:
    raise ValueError("everything\nis wrong")


def test_a_replica_that_can_segment_nothing_blames_no_input(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.engine.replica.Replica, "_open", fail)
    with pytest.raises(UnfinishedError) as raised:
        run([str(archive / "a.tif")], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert str(raised.value) == (
        f"{small_checkpoint}: the replica can segment nothing any more (ValueError: everything is"
        " wrong); what is done is kept, the same command resumes the run"
    )


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pipeline.engine.replica.Replica", "no replica could be loaded"),
        ("pipeline.stages.unit_file", "a.tif: the rows of its unit cannot be made"),
        ("pipeline.output.publishing.write_masks", "out: shard 000000 cannot be published"),
        ("pipeline.output.scene_tables.table_of", "the rows of shard 000000 cannot be made"),
    ],
)
def test_what_is_no_inputs_fault_ends_the_run_with_one_line(
    archive: Path,
    small_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    swath: Swath,
    what: str,
    message: str,
) -> None:
    words = ["run", archive / "a.tif", "--checkpoint", small_checkpoint, "--runner", "local"]
    words += ["--window", 64, "--stride", 48, "--output", tmp_path / "out"]
    with monkeypatch.context() as patch:
        patch.setattr(what, fail)
        code, _, stderr = swath(*words)
    assert code == 1
    assert f"{message} (ValueError: everything is wrong); what is done is kept" in stderr
    assert stderr.splitlines()[-1].startswith("swath: error: ")
    assert swath(*words)[0] == 0


def test_memory_that_is_short_for_a_unit_is_tried_block_by_block(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pipeline.engine.replica.Replica._segment

    def segment_with_little_memory(replica: Any, read: Any, batch: int) -> Any:
        if len(read.blocks) > 1 or read.unit.blocks[0].scene.scene_id == "b.tif":
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real(replica, read, batch)

    monkeypatch.setattr(pipeline.engine.replica.Replica, "_segment", segment_with_little_memory)
    inputs = [str(archive / name) for name in GOOD]
    receipt = run(inputs, small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert receipt.scenes_done == 2
    (failure,) = receipt.failures
    assert (failure.scene_id, failure.stage, failure.error) == ("b.tif", "segment", "memory")


def test_a_row_that_cannot_be_encoded_leaves_out_its_scene_alone(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text that is no Unicode, of which only Arrow takes notice."""
    real = pipeline.output.scene_tables.scene_row

    def row_with_a_surrogate(scene: Any, *more: Any) -> dict[str, Any]:
        row = real(scene, *more)
        return {**row, "datetime": "\ud800"} if scene.scene_id == "b.tif" else row

    monkeypatch.setattr(pipeline.output.scene_tables, "scene_row", row_with_a_surrogate)
    inputs, out = [str(archive / name) for name in GOOD], tmp_path / "out"
    receipt = run(inputs, small_checkpoint, str(out), SETTINGS, LOCAL)
    (failure,) = receipt.failures
    assert (failure.scene_id, failure.stage) == ("b.tif", "publish")
    check_counts(out, receipt)
    assert receipts(out)[-1]["failures"] == [failure.to_json()]


def test_a_plan_says_which_areas_cannot_be_computed(
    archive: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [str(archive / name) for name in GOOD]
    whole = plan(inputs, small_checkpoint, SETTINGS, LOCAL)
    real = pipeline.planning.forecast.CellAreas.total_m2

    def total_m2(areas: Any) -> float:
        calls.append(areas)
        if len(calls) == 1:
            raise ValueError("no size")
        return real(areas)

    calls: list[Any] = []
    monkeypatch.setattr(pipeline.planning.forecast.CellAreas, "total_m2", total_m2)
    estimate = plan(inputs, small_checkpoint, SETTINGS, LOCAL)
    assert (
        "the area of 1 scene cannot be computed, first a.tif (ValueError: no size): a run would"
        " leave such blocks in quarantine"
    ) in estimate.notes
    assert estimate.km2 == pytest.approx((whole.km2 or 0) * 2 / 3)

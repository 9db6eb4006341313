"""Unit files and records that are cut, empty, garbage or gone: what can be made again is."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipeline.stages
from pipeline.api import plan, run
from pipeline.errors import UnfinishedError, UsageError
from pipeline.output.layout import Output
from pipeline.output.outcomes import DAMAGE, read_unit_file
from pipeline.output.parquet import read_outcome, read_unit
from pipeline.output.status import status
from pipeline.progress import Progress
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from pipeline.storage.store import Store
from pipeline.unit import Unit
from tests.support.archives import write_scene
from tests.support.broken_inputs import put
from tests.support.commands import Swath
from tests.support.outputs import differences, files, read, receipts, stray_files

SETTINGS = Settings(window=64, stride=64, batch=2)
LOCAL = Execution(runner="local", block=512)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda whole: whole[:-100],
    "empty": lambda _: b"",
    "zeros before the footer's length": lambda whole: (
        whole[:4] + bytes(len(whole) - 12) + whole[-8:]
    ),
    "noise": lambda whole: os.urandom(len(whole)),
    "noise in a page": lambda whole: whole[:4] + b"\xff" * 200 + whole[204:],
    "a flipped bit in a mask": lambda whole: flipped(whole, whole.index(b"(\xb5/\xfd") + 40),
}
"""What may become of a file; the last two leave its end intact. zstd's frames start with
(\xb5/\xfd."""


def flipped(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of nine units with different pixels, and one that is torn: a marked unit."""
    folder = tmp_path_factory.mktemp("archive") / "in"
    write_scene(folder / "tall.tif", 60, 9 * 512 - 30)
    torn = write_scene(folder / "torn.tif", 512, 100, tiled=False)
    whole = torn.read_bytes()
    torn.write_bytes(whole[:1000] + bytes(500) + whole[1500:])
    return folder


@pytest.fixture(scope="module")
def calm(archive: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calm") / "out"
    segment(archive, small_checkpoint, out)
    return out


def segment(
    archive: Path,
    checkpoint: str,
    out: Path | str,
    execution: Execution = LOCAL,
    watch: Callable[[Progress], None] | None = None,
) -> Receipt:
    return run([str(archive)], checkpoint, str(out), SETTINGS, execution, watch)


def stop_before_the_end(archive: Path, checkpoint: str, out: Path | str, units: int = 9) -> Store:
    """Start a run, and stop it after this many units."""

    def stop(progress: Progress) -> None:
        if progress.done_units == units:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(archive, checkpoint, out, watch=stop)
    assert len(unit_files(out)) == units
    return Output.open(str(out)).store


def unit_files(out: Path | str) -> list[str]:
    return [n for n in files(out) if n.startswith("work/") and n.endswith(".parquet")]


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "out")
    return f"{request.getfixturevalue('s3_folder')}/out"


def test_damaged_unit_files_are_computed_again(
    archive: Path, calm: Path, small_checkpoint: str, out: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each kind of damage at once; the last file is gone once the run has listed it."""
    store = stop_before_the_end(archive, small_checkpoint, out)
    names = unit_files(out)
    for name, damage in zip(names, DAMAGES.values(), strict=False):
        whole = store.read(name)
        assert damage(whole) != whole
        store.write(name, damage(whole))

    def delete_one(progress: Progress) -> None:
        if progress.computed_units == 0:
            store.delete(names[-1])

    receipt = segment(archive, small_checkpoint, out, watch=delete_one)
    assert differences(calm, out) == []
    assert stray_files(out) == []
    damaged = [*names[: len(DAMAGES)], names[-1]]
    assert receipt.units_computed == len(damaged) + 1
    for name in names:
        assert (f"{out}/{name}: is damaged (" in caplog.text) == (name in damaged)
    (note,) = (note for note in receipt.notes if "damaged" in note)
    assert note.endswith(
        "); its unit is open again, and `swath run` computes it (the first of 7 such)"
    )
    assert list(receipts(out)[-1]["notes"]) == list(receipt.notes)


def test_no_flipped_bit_is_accepted(archive: Path, small_checkpoint: str, tmp_path: Path) -> None:
    """Parquet's own checksums are of pages alone."""
    stop_before_the_end(archive, small_checkpoint, tmp_path / "out", units=1)
    (name,) = unit_files(tmp_path / "out")
    whole = (tmp_path / "out" / name).read_bytes()
    table, outcome = read_unit(io.BytesIO(whole))
    accepted = 0
    for at in range(0, len(whole), 41):
        try:
            other_table, other_outcome = read_unit(io.BytesIO(flipped(whole, at)))
        except DAMAGE:
            continue
        accepted += 1
        assert other_table.equals(table)
        assert other_outcome == outcome
    assert 0 < accepted < len(whole) / 41 / 2  # where nothing is told, as in the statistics


@pytest.mark.ray
@pytest.mark.slow
def test_damaged_unit_files_are_computed_again_on_ray(
    archive: Path, calm: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stop_before_the_end(archive, small_checkpoint, out)
    for name, damage in zip(unit_files(out), DAMAGES.values(), strict=False):
        (out / name).write_bytes(damage((out / name).read_bytes()))
    receipt = segment(archive, small_checkpoint, out, Execution(replicas=1, block=512))
    assert differences(calm, out) == []
    assert stray_files(out) == []
    assert any("(the first of 6 such)" in note for note in receipt.notes)


def test_a_damaged_file_with_failures_is_open_again(
    archive: Path,
    calm: Path,
    small_checkpoint: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    swath: Swath,
) -> None:
    """Files that are marked as containing failures are read when a run starts, and by status."""
    out = tmp_path / "out"
    write_all_but_publish(archive, small_checkpoint, out)
    (marker,) = [n for n in files(out) if n.endswith(".failed")]
    damaged = out / marker.replace(".failed", ".parquet")
    damaged.write_bytes(b"")
    before = status(str(out))
    assert f"{damaged}: is damaged (0 bytes: " in caplog.text
    assert (before.units_done, before.quarantined_waiting) == (9, 0)
    caplog.clear()
    plan([str(archive)], small_checkpoint, SETTINGS, LOCAL, str(out))
    assert f"{damaged}: is damaged (0 bytes: " in caplog.text
    assert damaged.exists()
    receipt = segment(archive, small_checkpoint, out)
    assert receipt.units_computed == 1
    (note,) = (note for note in receipt.notes if "damaged" in note)
    assert str(damaged) in note
    assert differences(calm, out) == []
    capsys.readouterr()  # what has been said so far
    code, _, stderr = swath("status", out)
    assert (code, stderr) == (0, "")


def write_all_but_publish(archive: Path, checkpoint: str, out: Path) -> None:
    """Compute what is open, and stop before anything is published."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.stages.publish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            segment(archive, checkpoint, out)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_file_that_is_always_damaged_ends_the_run(
    archive: Path,
    calm: Path,
    small_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that loses the same file each time."""
    real, out = pipeline.stages.write_unit, tmp_path / "out"
    writes: list[str] = []

    def write(store: Store, unit: Unit, data: bytes, *, failed: bool) -> None:
        bad = str(unit.blocks[0].core).startswith("0,512 ")
        writes.extend([unit.unit_id] * bad)
        real(store, unit, flipped(data, len(data) // 3) if bad else data, failed=failed)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.stages, "write_unit", write)
        with pytest.raises(UnfinishedError) as raised:
            segment(archive, small_checkpoint, out)
    assert len(writes) == 3
    assert f"{writes[0]}.parquet: is damaged whenever it has been written (" in str(raised.value)
    assert "check the disk or the store" in str(raised.value)
    assert receipts(out)[-1]["ended"] == str(raised.value)
    segment(archive, small_checkpoint, out)
    assert differences(calm, out) == []


def test_a_unit_file_that_is_replaced_while_it_is_read_is_read_again(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store may report the size of one version and return the bytes of the other."""
    stop_before_the_end(archive, small_checkpoint, tmp_path / "out", units=1)
    out = Output.open(str(tmp_path / "out"))
    (path,) = unit_files(tmp_path / "out")
    whole = out.store.read(path)
    first_then_whole = iter([whole[:-3], whole])
    monkeypatch.setattr(out.store, "open", lambda _: io.BytesIO(next(first_then_whole)))
    assert read_unit_file(out, path, read_outcome)["failures"] == []


def test_a_unit_file_of_an_earlier_swath_has_no_checksum_and_is_no_damage(
    archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    stop_before_the_end(archive, small_checkpoint, tmp_path / "out", units=1)
    (path,) = unit_files(tmp_path / "out")
    with Output.open(str(tmp_path / "out")).store.open(path) as file:
        table, outcome = read_unit(file)
    earlier = io.BytesIO()
    bare = {b"swath": json.dumps(outcome).encode()}
    pq.write_table(table.replace_schema_metadata(bare), earlier)
    assert read_outcome(earlier) == outcome
    truncated = {b"swath": json.dumps(outcome).encode()[:-9]}
    pq.write_table(table.replace_schema_metadata(truncated), earlier)
    with pytest.raises(ValueError, match=r"Expecting|delimiter|Unterminated"):
        read_outcome(earlier)


RECORDS = pytest.mark.parametrize("damage", [b"", b'{"shard": "00', b"\0" * 40, b"\xff\xfe{}"])


@RECORDS
def test_a_damaged_commit_is_named_and_can_be_deleted(
    archive: Path, calm: Path, small_checkpoint: str, out: str, damage: bytes, swath: Swath
) -> None:
    segment(archive, small_checkpoint, out)
    store = Output.open(out).store
    store.write("commits/000000.json", damage)
    for words in (["status", out], run_words(archive, small_checkpoint, out)):
        code, _, stderr = swath(*words)
        assert code == 2
        error = stderr.splitlines()[-1]
        assert f"{out}/commits/000000.json: is damaged ({len(damage)} bytes: " in error
        assert error.endswith("delete it, and `swath run` computes and publishes its shard again")
    store.delete("commits/000000.json")
    assert segment(archive, small_checkpoint, out).units_computed == 10
    assert differences(calm, out) == []


@RECORDS
def test_a_damaged_plan_or_job_is_named(
    archive: Path, small_checkpoint: str, tmp_path: Path, damage: bytes, swath: Swath
) -> None:
    out = tmp_path / "out"
    segment(archive, small_checkpoint, out)
    for name in ("plan/000000.json", "job.json"):
        (out / name).write_bytes(damage)
        code, _, stderr = swath(*run_words(archive, small_checkpoint, out))
        assert code == 2
        error = stderr.splitlines()[-1]
        assert f"{out}/{name}: is damaged ({len(damage)} bytes: " in error
        assert error.endswith("put it back from a copy, or name a new --output")


@RECORDS
def test_a_damaged_index_of_the_plan_and_receipt_are_said_and_do_without(
    archive: Path, calm: Path, small_checkpoint: str, tmp_path: Path, damage: bytes, swath: Swath
) -> None:
    out = tmp_path / "out"
    segment(archive, small_checkpoint, out)
    index, before = read(out, "plan.json"), status(str(out)).to_json()
    (out / "plan.json").write_bytes(damage)
    code, stdout, stderr = swath("status", out, "--format", "json")
    assert code == 0
    assert json.loads(stdout) == json.loads(json.dumps(before))
    assert f"note: {out}/plan.json: is damaged ({len(damage)} bytes: " in stderr
    assert stderr.endswith("); plan/ is read instead\n")
    receipt = segment(archive, small_checkpoint, out)
    assert any("plan.json: is damaged" in note for note in receipt.notes)
    assert read(out, "plan.json") == index

    first = min((out / "runs").glob("*.json"))
    first.write_bytes(damage)
    code, stdout, stderr = swath("status", out)
    assert code == 0
    assert f"note: {first}: is damaged ({len(damage)} bytes: " in stderr
    assert "1 ended without a receipt" in stdout
    assert differences(calm, out) == []


def run_words(archive: Path, checkpoint: str, out: Path | str) -> list[object]:
    words = ["run", archive, "--checkpoint", checkpoint, "--output", out, "--runner", "local"]
    return [*words, "--window", 64, "--stride", 64, "--batch", 2, "--block", 512]


def test_a_version_that_cannot_be_read_is_no_damage(
    archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(archive, small_checkpoint, out)
    (out / "commits" / "000000.json").write_text('{"shard": "000000"}')
    with pytest.raises(UsageError, match=r"000000\.json: not readable by this version of Swath"):
        segment(archive, small_checkpoint, out)


def test_a_damaged_published_table_stays_an_error(
    small_checkpoint: str, contents: dict[str, bytes], tmp_path: Path
) -> None:
    """It is read when rows of a retried input are to be deleted."""
    folder, out = tmp_path / "in", tmp_path / "out"
    put(folder / "a.tif", contents["good0"])
    put(folder / "b.tif", contents["bad0"])
    segment(folder, small_checkpoint, out)
    put(folder / "b.tif", contents["good1"])
    table = out / "quarantine" / "000000.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-50])
    for _ in range(2):
        with pytest.raises(UnfinishedError) as raised:
            segment(folder, small_checkpoint, out)
        assert f"{table}: this published table is damaged" in str(raised.value)
    table.write_bytes(whole)
    assert segment(folder, small_checkpoint, out).scenes_done == 2
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []

"""Files that crash, hang or exhaust the process that reads them, among good ones: the same rows
whether a plain loop meets them first or Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline.cluster.isolation
from pipeline.api import Request, run, run_request
from pipeline.driver.loop_process import LoopProcess
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support import poisoned_reads
from tests.support.archives import write_scene
from tests.support.outputs import differences, rows, stray_files

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for number in range(8):
        write_scene(tmp_path / "in" / f"good{number}.tif", 90, 80, seed=number)
    return tmp_path / "in"


def segment(
    archive: Path,
    checkpoint: str,
    out: Path,
    execution: Execution,
    monkeypatch: pytest.MonkeyPatch,
) -> Receipt:
    """A run whose reads are poisoned, by a plain loop if the execution allows one."""
    monkeypatch.setattr(
        pipeline.cluster.isolation, "read_with_limits", poisoned_reads.read_poisoned
    )
    loop = LoopProcess(poisoned_reads.PoisonedLoop(checkpoint, SETTINGS, DEFAULT_ACCESS))
    request = Request([f"{archive}/*"], checkpoint, SETTINGS, execution, loop=loop)
    try:
        return run_request(request, str(out), stages=poisoned_reads.STAGES)
    finally:
        loop.close()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("execution", [Execution(replicas=1), Execution()], ids=["ray", "auto"])
def test_exactly_the_poisonous_scenes_are_quarantined(
    execution: Execution,
    archive: Path,
    small_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run([str(archive)], small_checkpoint, str(tmp_path / "calm"), SETTINGS, LOCAL)
    for name in poisoned_reads.POISON:
        poisoned_reads.write_poisonous(archive / f"{name}.vrt")
    out = tmp_path / "out"
    execution = Execution(replicas=execution.replicas, unit_timeout=20)  # no crash, but a hang
    receipt = segment(archive, small_checkpoint, out, execution, monkeypatch)
    assert receipt.runner == "ray"
    took_over = [note for note in receipt.notes if "the process of the plain loop died" in note]
    assert len(took_over) == (0 if execution.replicas else 1)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (8, 4)
    failures = rows(out, "quarantine").to_pylist()
    assert {row["scene_id"]: row["error"] for row in failures} == poisoned_reads.ERRORS
    assert all(str(archive / row["scene_id"]) in row["message"] for row in failures)
    assert differences(tmp_path / "calm", out, "masks", "statistics") == []
    assert stray_files(out) == []


def test_a_plain_loop_survives_a_scene_that_takes_all_memory(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("memory", "raise"):
        poisoned_reads.write_poisonous(archive / f"{name}.vrt")
    out = tmp_path / "out"
    receipt = segment(archive, small_checkpoint, out, Execution(), monkeypatch)
    assert (receipt.runner, receipt.scenes_done) == ("local", 8)
    failures = rows(out, "quarantine").to_pylist()
    assert {row["scene_id"]: row["error"] for row in failures} == {
        name: poisoned_reads.ERRORS[name] for name in ("memory.vrt", "raise.vrt")
    }

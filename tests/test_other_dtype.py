"""What `plan --calibrate` says of types that are faster here than the job's. No clock decides."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from pipeline.api import plan, run
from pipeline.driver.planned_inputs import PlannedInputs
from pipeline.driver.survey import survey_inputs
from pipeline.errors import UnfinishedError
from pipeline.estimate import Estimate, Rate
from pipeline.imagery.header_pool import HeaderPool
from pipeline.job import Job
from pipeline.output.resume import read_record
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.settings import Execution, Settings, Trial
from pipeline.stages import Segmentation
from pipeline.trial import calibration
from pipeline.trial.dtype_note import COMPARED
from pipeline.trial.samples import draw_blocks
from pipeline.unit import ReadUnit, SegmentedUnit
from tests.support.archives import mask_of, picture, write_scene

SETTINGS = Settings(window=128, stride=96, batch=2)
LOCAL = Execution(runner="local")
WINDOW_S = {"float32": 3.0, "bfloat16": 2.0, "float16": 5.0}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene that is mostly empty, and a full one."""
    folder = tmp_path_factory.mktemp("archive")
    hollow = np.maximum(picture(1500, 1100, seed=1), 1)
    hollow[:, :, 700:] = 0
    write_scene(folder / "hollow.tif", 1500, 1100, values=hollow, nodata=0)
    write_scene(folder / "full.tif", 900, 700, seed=2)
    return folder


@dataclass
class Clock:
    """Stands in for `time`: only replicas make it go on."""

    now_s: float = 0.0

    def process_time(self) -> float:
        return self.now_s

    perf_counter = process_time


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", {"float32", "bfloat16"}),
        ("bfloat16", {"float32", "bfloat16"}),
        ("float16", {"float32", "bfloat16", "float16"}),
    ],
)
def test_the_job_s_own_type_is_measured_and_others_beside_it(
    dtype: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By replicas of another speed for each type, and a clock that only they advance."""
    clock = Clock()

    class TimedReplica:
        def __init__(self, job: Job, *_: object) -> None:
            self._window_s = WINDOW_S[job.settings.dtype]

        def segment(self, read: ReadUnit) -> SegmentedUnit:
            clock.now_s += 4 * self._window_s
            return SegmentedUnit(read.unit, (), 4, 0.0, 0.0, 0)

    monkeypatch.setattr(calibration, "time", clock)
    monkeypatch.setattr(calibration, "Replica", TimedReplica)
    monkeypatch.setattr(calibration, "run_in_fresh_process", lambda call, item, *_: call(item))
    monkeypatch.setattr(calibration, "local_devices", lambda: ("cpu", 1))
    job = Job(replace(SETTINGS, dtype=dtype), "c", "sha", "cpu", ("a", "b"), (None, None))
    need = MemoryNeed(*[0] * 9)
    budget = MemoryBudget(need, Machine("cpu", 1, 10**10, tasks=1), tasks=1)
    rates = calibration.calibrate(Segmentation(job, LOCAL.access, budget, 900), channels=3)
    assert {name: rate.window_s for name, rate in rates.items()} == {
        name: WINDOW_S[name] for name in expected
    }
    assert next(iter(rates)) == dtype
    assert all(rate.measured for rate in rates.values())


def estimate(
    archive: Path,
    checkpoint: str,
    dtype: str,
    window_s: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
) -> Estimate:
    """The estimate of a plan whose calibration gives these rates."""
    rates = {name: Rate(seconds, measured=True) for name, seconds in window_s.items()}
    monkeypatch.setattr("pipeline.trial.calibration.calibrate", lambda *_: rates)
    settings, trial = replace(SETTINGS, dtype=dtype), Trial(calibrate=True)
    return plan([str(archive)], checkpoint, settings, LOCAL, trial=trial)


def dtype_notes(estimate: Estimate) -> list[str]:
    return [note for note in estimate.notes if "--dtype" in note]


def test_a_faster_type_is_noted_with_the_share_of_pixels_that_keep_their_class(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share is that of the masks of two whole runs."""
    window_s = {"float32": 2.0, "bfloat16": 1.5}
    estimated = estimate(archive, small_checkpoint, "float32", window_s, monkeypatch)
    assert estimated.rate.window_s == 2.0  # the job's own: nothing is changed
    (note,) = dtype_notes(estimated)
    assert "--dtype bfloat16 would take 0.75 of the time here, in a new OUT" in note
    assert "only float32 keeps the promise of exact masks" in note
    words = re.search(r"([\d,]+) of ([\d,]+) pixels \(([\d.]+)%\) of (\d) random blocks", note)
    assert words
    same, pixels, blocks = (int(words[n].replace(",", "")) for n in (1, 2, 4))
    assert float(words[3]) == pytest.approx(100 * same / pixels, abs=0.001)
    for dtype in window_s:
        out = str(tmp_path / dtype)
        run([str(archive)], small_checkpoint, out, replace(SETTINGS, dtype=dtype), LOCAL)
    known = PlannedInputs.of(read_record(None), retry=False)
    scenes = survey_inputs([str(archive)], SETTINGS, 3, known, LOCAL.access, HeaderPool()).scenes
    pairs = []
    for block in draw_blocks(scenes, 100, 512):
        core, name = block.core, block.scene.scene_id
        cut = np.s_[core.row_off : core.row_end, core.col_off : core.col_end]
        exact, other = (mask_of(tmp_path / dtype, name)[cut] for dtype in window_s)
        if (exact != 255).any():
            pairs.append((exact[exact != 255], other[exact != 255]))
    pairs = list(islice(pairs, COMPARED))
    assert blocks == len(pairs) == COMPARED
    assert pixels == sum(exact.size for exact, _ in pairs)
    assert same == sum(int((exact == other).sum()) for exact, other in pairs) < pixels


@pytest.mark.parametrize(
    ("dtype", "window_s"),
    [
        ("float32", {"float32": 1.0, "bfloat16": 1.4}),
        ("float32", {"float32": 1.0, "bfloat16": 0.95}),
        ("bfloat16", {"bfloat16": 0.7, "float32": 1.0}),
    ],
)
def test_a_type_that_is_hardly_faster_or_slower_is_not_noted(
    dtype: str,
    window_s: dict[str, float],
    archive: Path,
    small_checkpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert dtype_notes(estimate(archive, small_checkpoint, dtype, window_s, monkeypatch)) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_float32_where_it_is_faster_is_noted_as_the_exact_type(
    dtype: str, archive: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    window_s = {dtype: 2.0, "float32": 1.0} | {"bfloat16": 2.0}
    (note,) = dtype_notes(estimate(archive, small_checkpoint, dtype, window_s, monkeypatch))
    assert "--dtype float32 would take 0.50 of the time here" in note
    assert note.endswith("it also keeps the promise of exact masks")


def test_archives_without_valid_pixels_have_no_share(
    small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(tmp_path / "a.tif", 300, 200, values=picture(300, 200) * 0, nodata=0)
    window_s = {"float32": 2.0, "bfloat16": 1.0}
    (note,) = dtype_notes(estimate(tmp_path, small_checkpoint, "float32", window_s, monkeypatch))
    assert "no block that was drawn has valid pixels" in note


def test_a_comparison_that_fails_costs_no_estimate(
    archive: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UnfinishedError("they could not be compared: its process was killed")

    monkeypatch.setattr("pipeline.trial.dtype_note.run_in_fresh_process", fail)
    window_s = {"float32": 2.0, "bfloat16": 1.0}
    estimated = estimate(archive, small_checkpoint, "float32", window_s, monkeypatch)
    (note,) = dtype_notes(estimated)
    assert "0.50 of the time here" in note
    assert "is unknown: they could not be compared: its process was killed" in note
    assert estimated.hours > 0

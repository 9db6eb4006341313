"""What `plan` computes on this machine: the rate behind its hours, and samples."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pipeline.trial.calibration
from jobs.cli import main
from pipeline.api import plan, run
from pipeline.driver.planned_inputs import PlannedInputs
from pipeline.driver.survey import survey_inputs
from pipeline.engine.device import local_devices
from pipeline.errors import UsageError
from pipeline.estimate import Estimate
from pipeline.imagery.header_pool import HeaderPool
from pipeline.job import Job
from pipeline.output.resume import read_record
from pipeline.planning.forecast import PIXEL_S, REPLICAS_CORE_FRACTION, busiest_replica_windows
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.planning.planner import BATCH
from pipeline.settings import Execution, Settings, Trial
from pipeline.stages import Segmentation
from pipeline.trial.pictures import overlay, palette
from pipeline.trial.results import on_this_machine
from pipeline.trial.samples import EDGE_PX, draw_blocks
from pipeline.unit import Block
from segformer import mit_config
from tests.support.archives import mask_of, picture, write_scene
from tests.support.checkpoints import SMALL, random_checkpoint, save_checkpoint

SETTINGS = Settings(window=128, stride=96, batch=2)
LOCAL = Execution(runner="local")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large scene that is mostly empty, a full one and a small one."""
    folder = tmp_path_factory.mktemp("archive")
    hollow = np.maximum(picture(2600, 2200, seed=1), 1)
    hollow[:, :, 700:] = 0
    write_scene(folder / "hollow.tif", 2600, 2200, values=hollow, nodata=0)
    write_scene(folder / "full.tif", 1300, 1100, seed=2)
    write_scene(folder / "small.tif", 200, 150, seed=3)
    return folder


def test_the_hours_follow_from_the_measured_rate(archive: Path, small_checkpoint: str) -> None:
    execution = replace(LOCAL, price_per_hour=36.0)
    nominal = plan([str(archive)], small_checkpoint, SETTINGS, execution)
    measured = plan(
        [str(archive)], small_checkpoint, SETTINGS, execution, trial=Trial(calibrate=True)
    )
    assert not nominal.rate.measured
    assert measured.rate.measured
    assert (measured.rate.replicas, measured.rate.windows % 4) == (1, 0)
    assert measured.rate.window_s != nominal.rate.window_s
    for estimate in (nominal, measured):  # one replica, so that all windows are its own
        seconds = estimate.windows_computed * estimate.rate.window_s
        assert estimate.hours * 3600 == pytest.approx(seconds)
        assert estimate.cost == pytest.approx(seconds / 100)
        assert estimate.km2 == pytest.approx(
            (2600 * 2200 + 1300 * 1100 + 200 * 150) / 1e4, rel=0.01
        )
        assert estimate.cost_per_1000_km2 == pytest.approx(
            1000 * (estimate.cost or 0) / (estimate.km2 or 1)
        )
    (units, windows) = (nominal.units, nominal.windows_computed)
    assert (measured.units, measured.windows_computed) == (units, windows)


@pytest.mark.slow
def test_as_many_replicas_are_measured_at_once_as_this_machine_would_run(
    archive: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.trial.calibration, "local_devices", lambda: ("cpu", 2))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr("pipeline.processes.host._control_groups", lambda *_: iter(()))
    trial = Trial(calibrate=True)
    estimate = plan([str(archive)], small_checkpoint, SETTINGS, Execution(replicas=3), trial=trial)
    assert (estimate.rate.replicas, estimate.replicas) == (2, 3)
    seconds = estimate.windows_computed * estimate.rate.window_s / 3
    assert seconds <= estimate.hours * 3600 <= 1.5 * seconds


def test_replicas_that_take_every_core_are_estimated_slower(
    archive: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def estimate_on(cores: int) -> Estimate:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr("pipeline.processes.host._control_groups", lambda *_: iter(()))
        return plan([str(archive)], small_checkpoint, SETTINGS, Execution(replicas=2))

    all_cores, spare_core = estimate_on(cores=2), estimate_on(cores=3)
    pixels_s = all_cores.megapixels * 1e6 * PIXEL_S / 2  # the nominal rate: the nominal pace
    expected = spare_core.hours * 3600 / REPLICAS_CORE_FRACTION + pixels_s
    assert all_cores.hours * 3600 == pytest.approx(expected)


def test_a_job_that_takes_several_runs_is_noted(archive: Path, small_checkpoint: str) -> None:
    def notes(max_hours: float) -> str:
        execution = replace(LOCAL, max_hours=max_hours)
        return "\n".join(plan([str(archive)], small_checkpoint, SETTINGS, execution).notes)

    hours = plan([str(archive)], small_checkpoint, SETTINGS, LOCAL).hours
    assert "about 3 runs of --max-hours" in notes(hours / 2.5)
    assert "--max-hours" not in notes(hours)


def test_measuring_on_another_kind_of_device_is_refused(
    archive: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.trial.calibration, "local_devices", lambda: ("cuda", 1))
    with pytest.raises(UsageError, match=r"this machine's cuda, but the replicas run on cpu"):
        plan([str(archive)], small_checkpoint, SETTINGS, LOCAL, trial=Trial(calibrate=True))


@pytest.mark.parametrize(
    ("windows", "replicas", "expected"),
    [([], 3, 0), ([4, 4, 4], 3, 4), ([4, 4, 4, 4], 3, 8), ([9, 1, 1, 1], 2, 9), ([5], 1, 5)],
)
def test_the_time_of_the_units_is_that_of_the_busiest_replica(
    windows: list[int], replicas: int, expected: int
) -> None:
    assert busiest_replica_windows(windows, replicas) == expected


def test_blocks_are_drawn_at_random_but_always_the_same(archive: Path) -> None:
    known = PlannedInputs.of(read_record(None), retry=False)
    scenes = survey_inputs([str(archive)], SETTINGS, 3, known, LOCAL.access, HeaderPool()).scenes
    blocks = list(draw_blocks(scenes, 200))
    assert blocks == list(draw_blocks(scenes, 200))
    assert len(set(map(_place, blocks))) == len(blocks)
    assert {block.scene.scene_id for block in blocks} == {"hollow.tif", "full.tif", "small.tif"}
    for block in blocks:
        core, scene = block.core, block.scene
        assert core.width == min(EDGE_PX, scene.width - core.col_off) > 0
        assert core.height == min(EDGE_PX, scene.height - core.row_off) > 0
        assert core.col_off % 512 == core.row_off % 512 == 0
    ends = {(b.core.col_end, b.core.row_end) for b in blocks if b.scene.scene_id == "hollow.tif"}
    assert (2600, 2200) in ends  # every pixel can be drawn


def _place(block: Block) -> tuple[str, str]:
    return block.scene.scene_id, str(block.core)


def test_samples_are_what_a_run_computes_for_their_blocks(
    archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    trial = Trial(sample=4, sample_to=str(tmp_path / "pictures"))
    samples = plan([str(archive)], small_checkpoint, SETTINGS, LOCAL, trial=trial).samples
    assert len(samples) == 4
    run([str(archive)], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    masks = {
        name: mask_of(tmp_path / "out", name) for name in ("hollow.tif", "full.tif", "small.tif")
    }
    colors = palette((None,) * 4)
    for sample in samples:
        ids = masks[sample.scene_id][_slices(sample.window)]
        valid = ids != 255
        assert sample.valid_pixels == valid.sum() > 0
        assert list(sample.shares.values()) == sorted(sample.shares.values(), reverse=True)
        for name, share in sample.shares.items():
            assert share == (ids == int(name.removeprefix("class_"))).sum() / valid.sum()
        assert 0.25 < (sample.mean_confidence or 0) < 1
        assert 0 <= sample.values[0] < sample.values[1] <= 1
        image = np.array(Image.open(sample.picture))
        assert image.shape == (ids.shape[0], 2 * ids.shape[1], 3)
        right = image[:, ids.shape[1] :]
        assert (right[valid] == colors[ids[valid]]).all()
        assert (image[:, : ids.shape[1]][~valid] == 0).all()
    assert _pictures(tmp_path) == [f"sample-00{n}.png" for n in (1, 2, 3, 4)]
    (tmp_path / "pictures" / "001.png").touch()  # not one of our files
    fewer = replace(trial, sample=2)
    plan([str(archive)], small_checkpoint, SETTINGS, LOCAL, trial=fewer)
    assert _pictures(tmp_path) == ["001.png", "sample-001.png", "sample-002.png"]


def _pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pictures").iterdir())


def test_samples_for_a_cluster_are_computed_with_the_device_and_batch_of_this_machine(
    small_checkpoint: str,
) -> None:
    settings, device = replace(SETTINGS, batch=16), local_devices()[0]
    other = "cpu" if device == "cuda" else "cuda"
    cluster_job, local_job = (
        Job(settings, small_checkpoint, "sha", kind, ("a",), (None,)) for kind in (other, device)
    )
    budget = MemoryBudget(MemoryNeed(*[0] * 9), Machine(other, 1, 10**10, tasks=4), tasks=4)
    sampled = on_this_machine(Segmentation(cluster_job, LOCAL.access, budget, 900)).job
    assert (sampled.device, sampled.settings.batch) == (device, BATCH[device])
    assert on_this_machine(Segmentation(local_job, LOCAL.access, budget, 900)).job == local_job


def _slices(window: str) -> tuple[slice, slice]:
    offsets, sizes = window.split()
    (col, row), (width, height) = map(int, offsets.split(",")), map(int, sizes.split("x"))
    return np.s_[row : row + height, col : col + width]


def test_a_wrong_scale_is_noted(small_checkpoint: str, tmp_path: Path) -> None:
    reflectances = picture(600, 600).astype(np.uint16) * 30
    write_scene(tmp_path / "in" / "a.tif", 600, 600, values=reflectances)
    trial = Trial(sample=1, sample_to=str(tmp_path / "pictures"))

    def plan_notes(scale: float) -> str:
        """The notes of a plan."""
        settings = replace(SETTINGS, scale=scale)
        estimate = plan([str(tmp_path / "in")], small_checkpoint, settings, LOCAL, trial=trial)
        return "\n".join(estimate.notes)

    def run_notes(scale: float) -> str:
        """The notes of a run."""
        settings, out = replace(SETTINGS, scale=scale), str(tmp_path / f"{scale}")
        return "\n".join(run([str(tmp_path / "in")], small_checkpoint, out, settings, LOCAL).notes)

    assert "the pixels' values run from 0.0" in run_notes(0.001)
    assert "check --scale and --offset" in run_notes(0.01)
    assert "the pixels' values end at 0.007" in run_notes(0.000001)
    assert "values" not in run_notes(1 / 7650)
    assert "values run from 0.06 to 7.59" in plan_notes(0.001)
    assert "check --scale and --offset" in plan_notes(0.001)
    assert "values end at 0.0076" in plan_notes(0.000001)
    assert "values" not in plan_notes(1 / 7650)


def test_one_class_everywhere_and_a_network_that_guesses_are_noted(tmp_path: Path) -> None:
    write_scene(tmp_path / "in" / "a.tif", 700, 600)
    checkpoint = random_checkpoint(mit_config("b0", 4, **SMALL), seed=1)
    trial = Trial(sample=1, sample_to=str(tmp_path / "pictures"))

    def notes(lead: float) -> str:
        """The notes for a network that predicts class 2 everywhere, with this lead in logits."""
        weights = dict(checkpoint.weights)
        for name, tensor in weights.items():
            if "classifier" in name:
                weights[name] = torch.zeros_like(tensor)
                if name.endswith("bias"):
                    weights[name][2] = lead
        folder = save_checkpoint(replace(checkpoint, weights=weights), tmp_path / str(lead))
        estimate = plan([str(tmp_path / "in")], folder, SETTINGS, LOCAL, trial=trial)
        assert estimate.samples[0].shares == {"class_2": 1.0}
        return "\n".join(estimate.notes)

    assert "99% of every sample is class_2" in notes(20.0)
    assert "confidence" not in notes(20.0)
    assert "the mean confidence of the samples is only 0.25" in notes(0.001)


def test_blocks_that_cannot_be_read_are_noted(small_checkpoint: str, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "in" / "a.tif", 600, 600)
    write_scene(tmp_path / "in" / "empty.tif", 600, 600, values=picture(600, 600) * 0, nodata=0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    trial = Trial(sample=2, sample_to=str(tmp_path / "pictures"))
    estimate = plan([str(tmp_path / "in")], small_checkpoint, SETTINGS, LOCAL, trial=trial)
    assert estimate.samples == ()
    notes = "\n".join(estimate.notes)
    assert "blocks that could not be sampled: 1; the first:" in notes
    assert "a.tif" in notes
    assert "0 of 2 samples" in notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sample", "2"], "name a folder for the pictures: --sample-to FOLDER"),
        (["--sample-to", "x"], "say how many: --sample 5"),
        (["--sample", "-1"], "must not be negative"),
        (["--price-per-hour", "-1"], "must be a number, 0 or more"),
        (["--price-per-hour", "inf"], "must be a number, 0 or more"),
    ],
)
def test_impossible_options_are_refused(
    archive: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(archive), "--checkpoint", "c", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_is_refused_as_the_folder_of_pictures(
    archive: Path, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal comes before anything is measured or segmented."""
    monkeypatch.setattr("pipeline.api.prepare", lambda *_: pytest.fail("too late"))
    (tmp_path / "file").touch()
    trial = Trial(sample=1, sample_to=str(tmp_path / "file"))
    with pytest.raises(UsageError, match="is a file; name a folder"):
        plan([str(archive)], small_checkpoint, trial=trial)


def test_the_command_prints_the_rate_the_cost_and_the_pictures(
    archive: Path, small_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", str(archive), "--checkpoint", small_checkpoint, "--window", "128"]
    words += ["--stride", "96", "--sample", "2", "--sample-to", str(tmp_path), "--runner", "local"]
    words += ["--price-per-hour", "2.5"]
    with pytest.raises(SystemExit):
        main(words)
    out = capsys.readouterr().out
    assert "s per window and replica, nominal; --calibrate measures it" in out
    assert "per 1,000 km2" in out
    assert f"{tmp_path}/sample-001.png" in out
    with pytest.raises(SystemExit):
        main([*words, "--format", "json"])
    printed = json.loads(capsys.readouterr().out)
    assert [sample["picture"] for sample in printed["samples"]] == [
        f"{tmp_path}/sample-00{n}.png" for n in (1, 2)
    ]
    assert printed["rate"]["measured"] is False


def test_pictures_show_what_the_network_gets() -> None:
    values = np.array([[[0.0, 0.5]], [[1.0, 2.0]], [[-1.0, np.nan]], [[0.3, 0.3]]], np.float32)
    ids, valid = np.array([[1, 255]], np.uint8), np.array([[True, False]])
    colors = palette(["0a0b0c", None])
    image = np.array(Image.open(io.BytesIO(overlay(values, ids, valid, colors))))
    assert colors[0].tolist() == [10, 11, 12]
    assert image.tolist() == [[[0, 255, 0], [0, 0, 0], colors[1].tolist(), [0, 0, 0]]]
    valid[:] = True
    grey = np.array(Image.open(io.BytesIO(overlay(values[:2], ids * 0, valid, colors))))
    assert grey[0, :2].tolist() == [[0, 0, 0], [128, 128, 128]]
    assert len({tuple(color) for color in palette((None,) * 150).tolist()}) == 150

"""End-to-end runs: the same rows however the work is divided, and what a resumed run adds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.api import plan, run
from pipeline.errors import UsageError
from pipeline.output.status import status
from pipeline.progress import Progress
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from pipeline.share import ALL_SHARDS, Share
from segformer import read_checkpoint, write_checkpoint
from tests.support.archives import picture, write_scene
from tests.support.outputs import differences, rows, stray_files

SETTINGS = Settings(window=128, stride=96, batch=2)
LOCAL = Execution(runner="local")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene of several blocks, a striped one, one with nodata, small and tiny ones."""
    folder = tmp_path_factory.mktemp("archive")
    write_scene(folder / "large.tif", 1500, 1300, seed=1)
    write_scene(folder / "strips.tif", 900, 1100, seed=2, tiled=False)
    hollow = np.maximum(picture(700, 600, seed=3), 1)
    hollow[:, 50:400, 100:500] = 0
    write_scene(folder / "sub" / "hollow.tif", 700, 600, values=hollow, nodata=0)
    for n in range(4):
        write_scene(folder / "small" / f"{n}.tif", 90 + 50 * n, 140, seed=10 + n)
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory):
    """The plain loop over whole scenes: the oracle."""
    out = tmp_path_factory.mktemp("oracle") / "out"
    segment(archive, small_checkpoint, out, Execution(runner="local", block=4096))
    return out


def segment(archive: Path, checkpoint: str, out: Path, execution: Execution = LOCAL) -> Receipt:
    return run([str(archive)], checkpoint, str(out), SETTINGS, execution)


@pytest.mark.parametrize("block", [512, 1024, None])
def test_the_rows_do_not_depend_on_the_block_size(
    archive: Path, small_checkpoint: str, undisturbed: Path, tmp_path: Path, block: int | None
) -> None:
    execution = Execution(runner="local", block=block)
    receipt = segment(archive, small_checkpoint, tmp_path / "out", execution)
    assert receipt.scenes_done == receipt.scenes_planned == 7
    assert differences(undisturbed, tmp_path / "out") == []
    assert stray_files(tmp_path / "out") == []


@pytest.mark.ray
def test_the_rows_on_ray_are_those_of_the_plain_loop(
    archive: Path, small_checkpoint: str, undisturbed: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    execution = Execution(replicas=2, block=512)
    out = tmp_path / "out"
    receipt = run([str(archive)], small_checkpoint, str(out), SETTINGS, execution, seen.append)
    assert receipt.replicas == 2
    assert receipt.units_computed == receipt.units > 8
    assert seen[-1].done_px == seen[-1].total_px == seen[-1].computed_px
    assert seen[0].starting
    assert not seen[-1].starting
    assert receipt.seconds - receipt.startup_s >= seen[-1].elapsed_s > 0
    assert differences(undisturbed, out) == []
    assert stray_files(out) == []


def test_an_alpha_band_fed_to_the_network_is_noted(small_checkpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_scene(folder / "0.tif", 60, 50, values=picture(60, 50)[[0, 1, 2, 0, 1]])
    for name in "12":
        Image.fromarray(np.full((50, 60, 4), 255, np.uint8), "RGBA").save(folder / f"{name}.png")
    settings = replace(SETTINGS, bands=(4, 3, 2))
    arguments = [str(folder)], small_checkpoint
    receipt = run(*arguments, str(tmp_path / "out"), settings, LOCAL)
    for notes in (plan(*arguments, settings, LOCAL).notes, receipt.notes):
        (note,) = (note for note in notes if "alpha to the network" in note)
        assert note.startswith("2 inputs feed a band that they call alpha to the network, first")
        assert "1.png (band 4)" in note
    assert not any(
        "alpha to the network" in note for note in plan(*arguments, SETTINGS, LOCAL).notes
    )


def test_a_nodata_value_outside_the_type_of_the_pixels_is_noted(
    small_checkpoint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    write_scene(folder / "a.tif", 60, 50)
    write_scene(folder / "b.tif", 60, 50, values=picture(60, 50).astype(np.int16) - 100)
    arguments = [str(folder)], small_checkpoint

    def notes(nodata: float) -> list[str]:
        settings = replace(SETTINGS, nodata=nodata, scale=0.01)
        return [note for note in plan(*arguments, settings, LOCAL).notes if "--nodata" in note]

    assert notes(0) == notes(255) == []
    message = (
        "1 input holds a type that cannot have the value of --nodata, first"
        f" {folder}/a.tif (uint8 has no 300): --nodata marks none of its pixels as missing"
    )
    assert notes(300)[0].startswith(message)
    assert "a.tif (uint8 has no -1)" in notes(-1)[0]
    for value in (0.5, np.nan, 1e6):
        assert notes(value)[0].startswith("2 inputs hold a type that cannot have the value")
        assert f"a.tif (uint8 has no {value:g})" in notes(value)[0]
    settings = replace(SETTINGS, nodata=300, scale=0.01)
    for _ in range(2):  # a run that finds all done says it, too
        receipt = run(*arguments, str(tmp_path / "out"), settings, LOCAL)
        assert any("--nodata marks none of its pixels" in note for note in receipt.notes)


def test_a_second_run_computes_nothing(
    archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    first = segment(archive, small_checkpoint, tmp_path / "out")
    second = segment(archive, small_checkpoint, tmp_path / "out")
    assert first.units_computed == first.units == second.units
    assert second.units_computed == 0
    assert (second.bounded_by, second.relief) == (None, None)
    assert (second.replicas, second.busy) == (0, None)
    assert second.startup_s == second.seconds
    report = status(str(tmp_path / "out"))
    assert [report.runs[0]["bounded_by"] is None, report.runs[1]["bounded_by"]] == [False, None]
    assert len(list((tmp_path / "out" / "runs").glob("*.json"))) == 2


def test_added_files_are_computed_and_nothing_else(
    archive: Path, small_checkpoint: str, undisturbed: Path, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    names = sorted(p.relative_to(archive) for p in archive.rglob("*.tif"))
    for name in names[::2]:
        copy_with_times(archive / name, folder / name)
    first = segment(folder, small_checkpoint, out)
    published = {p: p.stat().st_mtime_ns for p in (out / "masks").iterdir()}
    for name in names[1::2]:
        copy_with_times(archive / name, folder / name)
    estimate = plan([str(folder)], small_checkpoint, SETTINGS, LOCAL, str(out))
    second = segment(folder, small_checkpoint, out)

    assert estimate.scenes == len(names[1::2])
    assert not any("nothing is left" in note for note in estimate.notes)
    assert second.units_computed == second.units - first.units > 0
    assert all(p.stat().st_mtime_ns == t for p, t in published.items())
    assert differences(undisturbed, out, "masks", "statistics", "quarantine") == []


@pytest.fixture
def finished(small_checkpoint: str, tmp_path: Path) -> tuple[Path, Path]:
    """An archive of two scenes, the second of them added later, and its output of two shards."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(2):
        write_scene(folder / f"{n}.tif", 60, 50, seed=n)
        segment(folder, small_checkpoint, out)
    return folder, out


@pytest.mark.parametrize(
    ("share", "coverage"),
    [(ALL_SHARDS, "has every input"), (Share(1, 2), "has every input of --shards 1/2")],
    ids=str,
)
def test_a_plan_notes_that_nothing_is_left_to_do(
    finished: tuple[Path, Path], small_checkpoint: str, share: Share, coverage: str
) -> None:
    folder, out = finished
    execution = replace(LOCAL, shards=share)
    estimate = plan([str(folder)], small_checkpoint, SETTINGS, execution, str(out))
    assert estimate.notes[-1] == f"nothing is left to do: {out} {coverage}"


def test_a_plan_notes_shards_that_only_have_to_be_published_and_scenes_in_quarantine(
    finished: tuple[Path, Path], small_checkpoint: str
) -> None:
    folder, out = finished
    (folder / "broken.tif").write_bytes(b"no image")
    before = plan([str(folder)], small_checkpoint, SETTINGS, LOCAL, str(out)).notes[-1]
    assert before == "nothing is left to compute, but shards are to be published: 1"
    segment(folder, small_checkpoint, out)
    after = plan([str(folder)], small_checkpoint, SETTINGS, LOCAL, str(out)).notes[-1]
    assert after.endswith("1 of them in quarantine: --retry-quarantined tries these again")


def copy_with_times(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def test_a_changed_file_is_noted_and_never_mixed_in(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_scene(folder / "a.tif", 200, 150, seed=1)
    segment(folder, small_checkpoint, out)
    before = rows(out, "masks").to_pylist()
    write_scene(folder / "a.tif", 260, 150, seed=2)
    receipt = segment(folder, small_checkpoint, out)

    assert receipt.scenes_planned == 1
    assert receipt.units_computed == 0
    assert "1 input has changed since it was planned, first" in receipt.notes[-1]
    assert rows(out, "masks").to_pylist() == before


def test_a_fixed_file_is_segmented_by_the_next_run(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_scene(folder / "good.tif", 200, 150)
    (folder / "bad.tif").write_text("no image")
    segment(folder, small_checkpoint, out)
    write_scene(folder / "bad.tif", 260, 150, seed=2)
    receipt = segment(folder, small_checkpoint, out)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 0)
    assert rows(out, "quarantine").num_rows == 0
    segment(folder, small_checkpoint, tmp_path / "fresh")
    assert differences(tmp_path / "fresh", out) == []


def test_one_file_under_two_names_is_refused(small_checkpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_scene(folder / "sub" / "a.tif", 200, 150)
    inputs = [str(folder), str(folder / "sub")]
    with pytest.raises(UsageError, match="is named twice, as scene 'sub"):
        run(inputs, small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    segment(folder, small_checkpoint, tmp_path / "out")
    receipt = segment(folder / "sub", small_checkpoint, tmp_path / "out")
    assert receipt.scenes_planned == 1  # recognized by its path


def test_odd_file_names_are_segmented_but_not_those_outside_utf_8(
    small_checkpoint: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    names = ["a::b.tif", "c[1]*?.tif", "d %20#&'.tif", "ü.tif"]
    for name in names:
        write_scene(folder / name, 60, 50)
    (folder / os.fsdecode(b"\xff.tif")).write_bytes((folder / "ü.tif").read_bytes())
    receipt = segment(folder, small_checkpoint, tmp_path / "out")
    assert receipt.scenes_done == 4
    assert ["not UTF-8" in failure.message for failure in receipt.failures] == [True]
    assert sorted(rows(tmp_path / "out", "masks")["scene_id"].to_pylist()) == sorted(names)


def test_a_crs_that_is_nowhere_on_earth_gives_no_areas(
    small_checkpoint: str, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for name, crs in (("geocentric", "EPSG:4978"), ("utm", "EPSG:32633")):
        write_scene(folder / f"{name}.tif", 60, 50, crs=crs)
    receipt = segment(folder, small_checkpoint, out)
    assert receipt.scenes_done == 2
    areas = {row["scene_id"]: row["area_m2"] for row in rows(out, "statistics").to_pylist()}
    assert areas["geocentric.tif"] is None
    assert areas["utm.tif"] > 0


@pytest.mark.parametrize("block", [512, 1024])
def test_the_rows_do_not_depend_on_the_block_size_at_an_odd_window_and_batch(
    small_checkpoint: str, tmp_path: Path, block: int
) -> None:
    write_scene(tmp_path / "in" / "a.tif", 1100, 700)
    settings = Settings(window=130, stride=110, batch=3)
    for name, edge in (("whole", 4096), ("blocks", block)):
        execution = Execution(runner="local", block=edge)
        run([str(tmp_path / "in")], small_checkpoint, str(tmp_path / name), settings, execution)
    assert differences(tmp_path / "whole", tmp_path / "blocks") == []
    assert torch.get_num_threads() == 1


def test_a_second_run_at_the_same_time_is_refused(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_scene(folder / "a.tif", 600, 600)
    refusals: list[str] = []

    def run_again(_: Progress) -> None:
        with pytest.raises(UsageError) as refused:
            segment(folder, small_checkpoint, out)
        refusals.append(str(refused.value))

    run([str(folder)], small_checkpoint, str(out), SETTINGS, LOCAL, run_again)
    assert "another run is using this output" in refusals[0]


def test_a_vanished_file_is_quarantined(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_scene(folder / "a.tif", 200, 150)
    doomed = write_scene(folder / "b.tif", 200, 150)

    def remove(_: Progress) -> None:
        doomed.unlink(missing_ok=True)

    execution = Execution(runner="local", block=512)
    big = write_scene(folder / "0.tif", 600, 600)  # in separate units, computed first
    receipt = run([str(folder)], small_checkpoint, str(out), SETTINGS, execution, remove)
    assert big.exists()
    assert [f.scene_id for f in receipt.failures] == ["b.tif"]
    assert "vanished" in receipt.failures[0].message
    statuses = {row["scene_id"]: row["status"] for row in rows(out, "scenes").to_pylist()}
    assert statuses == {"0.tif": "done", "a.tif": "done", "b.tif": "quarantined"}


def test_two_bad_files_among_ten_good_ones_are_quarantined(
    small_checkpoint: str, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n in range(10):
        write_scene(folder / f"good{n}.tif", 150, 150, seed=n)
    noise = np.random.default_rng(0).integers(0, 256, (3, 400, 400), dtype=np.uint8)
    broken = write_scene(folder / "broken.tif", 400, 400, values=noise)
    content = bytearray(broken.read_bytes())
    content[20_000:200_000] = bytes(180_000)
    broken.write_bytes(content)
    (folder / "text.tif").write_text("this is no image")

    options = ["--runner", "local", "--window", "128", "--stride", "96"]
    paths = [folder, "--checkpoint", small_checkpoint, "--output", out]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", *paths, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    quarantine = {row["scene_id"]: row for row in rows(out, "quarantine").to_pylist()}
    assert set(quarantine) == {"broken.tif", "text.tif"}
    assert (quarantine["broken.tif"]["stage"], quarantine["text.tif"]["stage"]) == (
        "read",
        "describe",
    )
    assert all(str(folder) in row["message"] for row in quarantine.values())
    scenes = rows(out, "scenes").to_pylist()
    assert sum(row["status"] == "done" for row in scenes) == 10
    assert sum(row["status"] == "quarantined" for row in scenes) == 2
    assert {row["scene_id"] for row in rows(out, "masks").to_pylist()} == {
        f"good{n}.tif" for n in range(10)
    }


def test_one_broken_block_leaves_a_partial_scene(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    noise = np.random.default_rng(0).integers(0, 256, (3, 1500, 600), dtype=np.uint8)
    path = write_scene(folder / "a.tif", 600, 1500, values=noise)
    content = bytearray(path.read_bytes())
    content[-150_000:-50_000] = bytes(100_000)
    path.write_bytes(content)
    seen: list[tuple[float, float]] = []

    def watch(progress: Progress) -> None:
        report = status(str(out))
        seen.append((progress.done_px / 1e6, progress.quarantined_px / 1e6))
        assert seen[-1] == pytest.approx((report.megapixels_done, report.megapixels_quarantined))

    execution = Execution(runner="local", block=512)
    receipt = run([str(folder)], small_checkpoint, str(out), SETTINGS, execution, watch)
    failed_px = sum(failure.pixels for failure in receipt.failures)
    assert 0 < failed_px < 600 * 1500
    assert seen[0] == (0, 0)
    assert seen[-1] == ((600 * 1500 - failed_px) / 1e6, failed_px / 1e6)
    assert receipt.megapixels == (600 * 1500 - failed_px) / 1e6
    run([str(folder)], small_checkpoint, str(out), SETTINGS, execution, watch)
    assert seen[-1] == seen[-2]  # includes earlier runs
    assert receipt.scenes_partial == 1
    assert {f.stage for f in receipt.failures} == {"read"}
    assert rows(out, "scenes")["status"].to_pylist() == ["partial"]
    assert 0 < rows(out, "masks").num_rows < 6


def test_non_finite_logits_are_quarantined_and_never_a_class(
    small_checkpoint: str, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(small_checkpoint)
    checkpoint.weights["head.classifier.weight"].fill_(3e38)  # finite, but no sum of them is
    write_checkpoint(checkpoint, str(tmp_path / "huge"))
    write_scene(tmp_path / "in" / "a.tif", 200, 150)
    receipt = segment(tmp_path / "in", str(tmp_path / "huge"), tmp_path / "out")
    assert [f.stage for f in receipt.failures] == ["segment"]
    assert "NaN or infinite" in receipt.failures[0].message
    assert rows(tmp_path / "out", "masks").num_rows == 0


def test_another_job_on_the_same_output_is_refused_naming_the_differences(
    small_checkpoint: str, b0_checkpoint: str, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write_scene(folder / "a.tif", 200, 150)
    segment(folder, small_checkpoint, out)
    for settings, message in (
        (Settings(window=128, stride=64), "stride: 96 here, 64 asked for"),
        (replace(SETTINGS, scale=0.5), "scale: none here, 0.5 asked for"),
        (replace(SETTINGS, dtype="bfloat16"), "dtype: float32 here, bfloat16 asked for"),
    ):
        with pytest.raises(UsageError, match=message):
            run([str(folder)], small_checkpoint, str(out), settings, LOCAL)
    message = rf"another checkpoint: {small_checkpoint} here, .* {b0_checkpoint} asked"
    with pytest.raises(UsageError, match=message):
        segment(folder, b0_checkpoint, out)
    with pytest.raises(UsageError, match=r"another file as scene 'a\.tif'"):
        segment(write_scene(tmp_path / "other" / "a.tif", 9, 9).parent, small_checkpoint, out)


def test_a_refused_run_leaves_no_output(small_checkpoint: str, tmp_path: Path) -> None:
    values = picture(200, 150).astype(np.uint16) * 40
    write_scene(tmp_path / "in" / "a.tif", 200, 150, values=values)
    with pytest.raises(UsageError, match="--scale"):
        segment(tmp_path / "in", small_checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    scaled = Settings(window=128, stride=96, scale=1 / 40 / 255)
    receipt = run([str(tmp_path / "in")], small_checkpoint, str(tmp_path / "out"), scaled, LOCAL)
    assert receipt.scenes_done == 1


def test_uint16_scaled_to_the_same_values_gives_the_same_masks(
    small_checkpoint: str, tmp_path: Path
) -> None:
    values = picture(300, 200)
    write_scene(tmp_path / "in8" / "a.tif", 300, 200, values=values)
    write_scene(tmp_path / "in16" / "a.tif", 300, 200, values=values.astype(np.uint16))
    norm = read_checkpoint(small_checkpoint).normalisation
    scaled = Settings(window=128, stride=96, batch=2, scale=norm.rescale)
    run([str(tmp_path / "in8")], small_checkpoint, str(tmp_path / "out8"), SETTINGS, LOCAL)
    run([str(tmp_path / "in16")], small_checkpoint, str(tmp_path / "out16"), scaled, LOCAL)
    assert differences(tmp_path / "out8", tmp_path / "out16", "masks", "statistics") == []


def test_a_folder_with_other_files_is_refused(small_checkpoint: str, tmp_path: Path) -> None:
    write_scene(tmp_path / "in" / "a.tif", 200, 150)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("precious")
    with pytest.raises(UsageError, match="holds files that are not an output of Swath"):
        segment(tmp_path / "in", small_checkpoint, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.doc"]


def test_png_and_jpeg_without_crs_have_no_areas(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    image = Image.fromarray(np.moveaxis(picture(300, 200), 0, -1))
    image.save(folder / "a.png")
    image.save(folder / "b.jpg")
    receipt = segment(folder, small_checkpoint, out)
    assert receipt.scenes_done == 2
    for row in rows(out, "statistics").to_pylist():
        assert row["area_m2"] is None
    assert rows(out, "masks")["geometry"].null_count == rows(out, "masks").num_rows > 0


def test_status_agrees_with_the_records(
    archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    receipt = segment(archive, small_checkpoint, tmp_path / "out")
    report = status(str(tmp_path / "out"))
    assert report.finished
    assert report.units == report.units_done == receipt.units
    assert report.scenes == report.scenes_published == 7
    assert report.megapixels_done == pytest.approx(receipt.megapixels)
    assert report.settings["settings"]["stride"] == 96
    assert report.runs[0]["units_computed"] == receipt.units_computed
    job = json.loads((tmp_path / "out" / "job.json").read_text())
    assert job["fingerprint"] == report.settings["fingerprint"]


def test_statistics_are_the_sums_of_the_masks(undisturbed: Path) -> None:
    statistics = rows(undisturbed, "statistics").to_pylist()
    for row in statistics:
        tiles = [
            part
            for tile in rows(undisturbed, "masks").to_pylist()
            if tile["scene_id"] == row["scene_id"]
            for part in tile["class_pixels"]
            if part["class_id"] == row["class_id"]
        ]
        assert row["pixels"] == sum(part["pixels"] for part in tiles)
        assert row["area_m2"] == pytest.approx(sum(part["area_m2"] for part in tiles), rel=1e-12)
        assert row["area_m2"] == pytest.approx(row["pixels"] * 100, rel=2e-3)
    fractions: dict[str, float] = {}
    for row in statistics:
        fractions[row["scene_id"]] = fractions.get(row["scene_id"], 0) + row["fraction"]
    assert all(value == pytest.approx(1) for value in fractions.values())


def test_the_counts_of_a_mask_are_those_of_its_pixels(undisturbed: Path) -> None:
    for tile in rows(undisturbed, "masks").to_pylist():
        ids = np.frombuffer(tile["mask"], tile["mask_dtype"])
        assert ids.size == tile["width"] * tile["height"]
        counts = np.bincount(ids[ids != tile["nodata"]], minlength=4)
        assert tile["valid_pixels"] == counts.sum()
        assert tile["majority_class"] == counts.argmax()
        assert {p["class_id"]: p["pixels"] for p in tile["class_pixels"]} == {
            k: n for k, n in enumerate(counts) if n
        }

"""An archive of files whose stored values are not the network's, and one of plain files of the same
values: the same rows, whatever the blocks and the runner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.api import plan, run
from pipeline.settings import Execution, Settings
from tests.support.archives import picture
from tests.support.encoded import COLORS, noise_to, write_with_table
from tests.support.outputs import differences
from tests.support.rasters import TILES, UTM, write_raster

SETTINGS = Settings(window=128, stride=96, batch=2)
LOCAL = Execution(runner="local")
WIDTH, HEIGHT = 1100, 700
OPTIONS = {**UTM, **TILES, "compress": "deflate"}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The encoded archive and the plain one."""
    encoded, plain = tmp_path_factory.mktemp("encoded"), tmp_path_factory.mktemp("plain")
    index = picture(WIDTH, HEIGHT, seed=1)[:1]
    write_with_table(encoded / "colors.tif", index, COLORS, **OPTIONS)
    write_raster(plain / "colors.tif", COLORS[index[0]].transpose(2, 0, 1)[:3], **OPTIONS)
    few = picture(WIDTH, HEIGHT, seed=2) >> 4
    write_raster(encoded / "few.tif", few, nbits=4, nodata=3, **OPTIONS)
    alpha = np.where((few == 3).all(axis=0), 0, 255).astype(np.uint8)[None]
    write_raster(plain / "few.tif", np.concatenate([few * 17, alpha]), **OPTIONS)
    negative = picture(WIDTH, HEIGHT, seed=3)
    write_raster(encoded / "negative.tif", negative, photometric="miniswhite", **OPTIONS)
    write_raster(plain / "negative.tif", 255 - negative, **OPTIONS)
    infrared = np.concatenate([picture(WIDTH, HEIGHT, seed=4), noise_to(99, WIDTH, HEIGHT)])
    write_raster(encoded / "infrared.tif", infrared, **OPTIONS)
    write_raster(plain / "infrared.tif", infrared[:3], **OPTIONS)
    return encoded, plain


@pytest.fixture(scope="module")
def oracle(
    archives: tuple[Path, Path], small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of the plain archive, each scene in one block."""
    out = tmp_path_factory.mktemp("oracle") / "out"
    run([str(archives[1])], small_checkpoint, str(out), SETTINGS, replace(LOCAL, block=2048))
    return out


@pytest.mark.parametrize(
    "execution",
    [
        pytest.param(replace(LOCAL, block=512), id="blocks"),
        pytest.param(LOCAL, id="planned"),
        pytest.param(
            Execution(replicas=1, block=1024), id="ray", marks=[pytest.mark.ray, pytest.mark.slow]
        ),
    ],
)
def test_the_rows_are_those_of_plain_files(
    archives: tuple[Path, Path],
    oracle: Path,
    small_checkpoint: str,
    tmp_path: Path,
    execution: Execution,
) -> None:
    out = tmp_path / "out"
    receipt = run([str(archives[0])], small_checkpoint, str(out), SETTINGS, execution)
    assert receipt.scenes_done == 4
    assert differences(oracle, out, "masks", "statistics") == []
    notes = [note for note in receipt.notes if note.startswith("1 input ")]
    assert [note.partition(", first ")[0] for note in notes] == [
        "1 input has a band that GDAL calls alpha and that is taken for data, such as near"
        " infrared",
        "1 input says that 0 is white (MINISWHITE) and is inverted",
    ]
    again = run([str(archives[0])], small_checkpoint, str(out), SETTINGS, execution)
    assert set(notes) <= {*again.notes}


def test_a_plan_says_what_a_run_says(archives: tuple[Path, Path], small_checkpoint: str) -> None:
    notes = plan([str(archives[0])], small_checkpoint, SETTINGS, LOCAL).notes
    (note,) = (note for note in notes if "MINISWHITE" in note)
    path = archives[0] / "negative.tif"
    assert note == (
        "1 input says that 0 is white (MINISWHITE) and is inverted, first"
        f" {path} (uint8): if that is wrong, correct the tag: tiffset -s 262 1 FILE"
    )
    infrared = [str(archives[0] / "infrared.tif")]
    for settings, why in (
        (SETTINGS, "of a sample is neither 0 nor 255"),
        (replace(SETTINGS, alpha="data"), "band 4, by --alpha data"),
    ):
        notes = plan(infrared, small_checkpoint, settings, LOCAL).notes
        assert any("is taken for data" in note and why in note for note in notes)


def test_a_single_gray_scene_of_each_kind_is_like_its_plain_file(
    small_checkpoint: str, tmp_path: Path
) -> None:
    values = picture(300, 200)[:1] >> 7
    for name, stored, options in (
        ("bits", values, {"nbits": 1}),
        ("white", 1 - values, {"nbits": 1, "photometric": "miniswhite"}),
        ("plain", values * 255, {}),
    ):
        (tmp_path / name).mkdir()
        write_raster(tmp_path / name / "a.tif", stored, **options)
    settings = replace(SETTINGS, bands=(1, 1, 1))
    for name in ("plain", "bits", "white"):
        out = str(tmp_path / f"out-{name}")
        run([str(tmp_path / name)], small_checkpoint, out, settings, LOCAL)
    for name in ("bits", "white"):
        out = tmp_path / f"out-{name}"
        assert differences(out, tmp_path / "out-plain", "masks", "statistics") == []

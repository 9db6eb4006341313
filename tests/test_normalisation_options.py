"""--rescale, --mean and --std in place of a checkpoint's numbers: rows, records, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.api import run
from pipeline.errors import CheckpointError, UsageError
from pipeline.job import Job
from pipeline.settings import Execution, Settings
from segformer import (
    Normalisation,
    NormalisationOptions,
    mit_config,
    read_checkpoint,
    write_checkpoint,
)
from segformer.preprocessor import normalisation_of_meta, normalisation_of_preprocessor
from tests.support.archives import picture, write_scene
from tests.support.checkpoints import SMALL, random_checkpoint
from tests.support.commands import Swath
from tests.support.foreign_checkpoints import nvlabs
from tests.support.outputs import differences, rows

MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)
GIVEN = NormalisationOptions(1 / 200, MEAN, STD)
LOCAL = Execution(runner="local")
TRAINED = {"cfg": "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=False"}


def settings(**more: object) -> Settings:
    return Settings(window=64, stride=48, batch=2, **more)  # type: ignore[arg-type]


@pytest.fixture
def archive(tmp_path: Path) -> str:
    write_scene(tmp_path / "in" / "a.tif", 100, 80)
    return str(tmp_path / "in")


def weights_file(path: Path, channels: int = 3) -> str:
    """A file of weights that states no normalization."""
    config = mit_config("b0", 3, **SMALL, num_channels=channels)
    normalisation = Normalisation(1 / 255, (0.5,) * channels, (0.5,) * channels)
    checkpoint = random_checkpoint(config, 1, normalisation)
    torch.save(nvlabs(checkpoint.weights), path)
    return str(path)


# --- what the numbers are -------------------------------------------------------------------------


def test_each_number_replaces_the_one_in_the_file() -> None:
    fields = {"image_mean": [0.1, 0.1, 0.1], "rescale_factor": 1 / 250}
    read = normalisation_of_preprocessor(fields, 3)
    assert read.sources == ("preprocessor_config.json",) * 2 + ("transformers' default",)
    replaced = normalisation_of_preprocessor(fields, 3, NormalisationOptions(std=STD))
    assert replaced == Normalisation(1 / 250, (0.1, 0.1, 0.1), STD)
    assert replaced.sources == ("preprocessor_config.json",) * 2 + ("--std",)
    assert normalisation_of_preprocessor(fields, 3, GIVEN) == Normalisation(1 / 200, MEAN, STD)
    nothing = {"do_rescale": False, "do_normalize": False}
    only_mean = normalisation_of_preprocessor(nothing, 3, NormalisationOptions(mean=(9.0,) * 3))
    assert only_mean == Normalisation(1.0, (9.0,) * 3, (1.0,) * 3)


def test_what_is_replaced_is_not_looked_at() -> None:
    """So a file that contradicts itself, or is broken, can be used without being changed."""
    broken = {"image_mean": None, "image_std": [0, 0], "rescale_factor": "1/255"}
    assert normalisation_of_preprocessor(broken, 3, GIVEN) == Normalisation(1 / 200, MEAN, STD)
    raw = {"image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]}
    with pytest.raises(CheckpointError, match="no value is beyond 1; write"):
        normalisation_of_preprocessor(raw, 3)
    assert normalisation_of_preprocessor(raw, 3, NormalisationOptions(rescale=1.0)).rescale == 1.0
    trained = {"cfg": "mean=[nan, 1, 1], std=[1, 1, 1]"}
    with pytest.raises(CheckpointError, match="not all are finite"):
        normalisation_of_meta(trained, 3)
    assert normalisation_of_meta(trained, 3, GIVEN)[0].mean == MEAN


def test_a_training_configuration_gives_what_the_options_do_not() -> None:
    plain, _ = normalisation_of_meta(TRAINED, 3)
    assert plain.sources == ("training configuration in the file",) * 3
    mixed, notes = normalisation_of_meta(TRAINED, 3, NormalisationOptions(mean=MEAN))
    assert (mixed.mean, mixed.std) == (MEAN, plain.std)
    assert "BGR into RGB" in notes[-1]
    both, notes = normalisation_of_meta(TRAINED, 3, NormalisationOptions(mean=MEAN, std=STD))
    assert both == Normalisation(1 / 255, MEAN, STD)
    assert both.sources == ("assumed, as for ImageNet", "--mean", "--std")
    (note,) = notes  # on the order of the bands, which options do not change
    assert "BGR into RGB" in note


def test_without_a_file_the_options_state_all_or_imagenet_does(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.pth")
    assumed = read_checkpoint(path)
    assert "ImageNet's normalization is used" in assumed.config.notes[-1]
    read = read_checkpoint(path, normalisation=NormalisationOptions(mean=MEAN, std=STD))
    assert read.normalisation == Normalisation(1 / 255, MEAN, STD)
    assert read.config.notes == assumed.config.notes[:-1]
    brighter = read_checkpoint(path, normalisation=NormalisationOptions(rescale=1 / 200))
    assert brighter.normalisation == Normalisation(
        1 / 200, assumed.normalisation.mean, assumed.normalisation.std
    )
    assert "(values * 0.005, mean 0.485" in brighter.config.notes[-1]
    for option, message in {
        NormalisationOptions(mean=MEAN): "--mean needs --std, too: the checkpoint states neither",
        NormalisationOptions(std=STD): "--std needs --mean, too: the checkpoint states neither",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path, normalisation=option)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rescale": 0.0}, "--rescale 0: must be a positive number"),
        ({"rescale": -1.0}, "--rescale -1: must be a positive number"),
        ({"rescale": float("nan")}, "--rescale nan: must be a positive number"),
        ({"rescale": float("inf")}, "--rescale inf: must be a positive number"),
        ({"mean": (0.1, float("nan"), 0.1)}, "--mean 0.1,nan,0.1: must be numbers, one per"),
        ({"mean": ()}, "--mean : must be numbers, one per channel"),
        ({"std": (0.1, float("inf"))}, "--std 0.1,inf: must be numbers, one per channel"),
        ({"std": (0.2, 0.0, 0.2)}, "--std 0.2,0,0.2: each must be positive; 1 leaves a channel"),
        ({"std": (0.2, -0.2, 0.2)}, "--std 0.2,-0.2,0.2: each must be positive"),
        ({"mean": (0.1,) * 3, "std": (0.2,) * 4}, "has 3 numbers, --std 4; give one per channel"),
    ],
)
def test_numbers_that_fit_no_checkpoint_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        settings(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            NormalisationOptions(mean=(0.5,) * 4),
            "--mean 0.5,0.5,0.5,0.5: the network has 3 channels; give one number for each",
        ),
        (
            NormalisationOptions(std=(0.5,)),
            "--std 0.5: the network has 3 channels; give one number for each",
        ),
        (
            NormalisationOptions(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)),
            "a mean of 123.7 116.3 103.5 (--mean) and a std of 58.4 57.12 57.38 (--std): rescaled"
            " by 0.003922 (rescale_factor), no value is beyond 1; give --rescale 1 if they are of"
            " values as stored, or as --scale makes them, else multiply both by 0.003922",
        ),
        (
            NormalisationOptions(rescale=1.0),
            "a mean of 0.485 0.456 0.406 (preprocessor_config.json) and a std of 0.229 0.224 0.225"
            " (preprocessor_config.json): of values from 0 to 1, but values are not rescaled to"
            " that (do_rescale, --rescale 1); give --rescale 0.00392156862745098 (for uint8;"
            " --scale is for all other types), or mean and std of values as stored",
        ),
    ],
)
def test_contradictions_with_the_checkpoint_are_refused(
    options: NormalisationOptions, message: str, small_checkpoint: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(small_checkpoint, normalisation=options)
    assert str(caught.value) == f"{small_checkpoint}: {message}"


def test_a_number_that_is_none_is_refused_by_the_command(
    swath: Swath, small_checkpoint: str
) -> None:
    for option, value in (("--mean", "0.5,x"), ("--std", "0.5;0.5"), ("--rescale", "1/255")):
        code, out, err = swath("model", "inspect", small_checkpoint, option, value)
        assert (code, out) == (2, "")
        assert option in err


# --- rows and records -----------------------------------------------------------------------------


def test_options_give_the_rows_of_a_file_with_the_same_numbers(
    archive: str, small_checkpoint: str, tmp_path: Path
) -> None:
    asked = settings(rescale=1 / 200, mean=MEAN, std=STD)
    run([archive], small_checkpoint, str(tmp_path / "asked"), asked, LOCAL)
    checkpoint = random_checkpoint(
        mit_config("b0", 4, **SMALL), 1, Normalisation(1 / 200, MEAN, STD)
    )
    write_checkpoint(checkpoint, str(tmp_path / "stated"))
    run([archive], str(tmp_path / "stated"), str(tmp_path / "file"), settings(), LOCAL)
    assert differences(tmp_path / "asked", tmp_path / "file") == []
    run([archive], small_checkpoint, str(tmp_path / "plain"), settings(), LOCAL)
    assert differences(tmp_path / "asked", tmp_path / "plain") != []


def test_the_numbers_are_recorded_and_a_change_is_refused(
    archive: str, small_checkpoint: str, swath: Swath, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["run", archive, "--checkpoint", small_checkpoint, "--output", out]
    words += ["--window", 64, "--stride", 48, "--runner", "local"]
    raw = ["--rescale", 1, "--mean", "100,110,120", "--std", "50,60,70"]
    assert swath(*words, *raw)[0] == 0
    record = json.loads((out / "job.json").read_text())
    assert record["settings"]["rescale"] == 1.0
    assert (record["settings"]["mean"], record["settings"]["std"]) == (
        [100.0, 110.0, 120.0],
        [50.0, 60.0, 70.0],
    )
    assert record["value_range"] == [-90.0, 330.0]  # of values as stored
    assert swath(*words, *raw)[0] == 0
    assert swath("run", "--job", out / "job.toml")[0] == 0
    code, _, err = swath(*words, *raw[:4], "--std", "50,60,71")
    assert code == 2
    assert "other settings (std: 50.0,60.0,70.0 here, 50.0,60.0,71.0 asked for)" in err
    code, _, err = swath(*words)
    assert code == 2
    assert "mean: 100.0,110.0,120.0 here, none asked for; std: " in err
    assert "; rescale: 1.0 here, none asked for)" in err


def test_a_record_without_these_options_has_their_defaults(small_checkpoint: str) -> None:
    job = Job(settings(), small_checkpoint, "0" * 64, "cpu", ("a",), (None,))
    record = json.loads(json.dumps(job.to_json()))
    for name in ("rescale", "mean", "std"):
        del record["settings"][name]
    assert Job.from_json(record) == job
    full = settings(rescale=0.5, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    assert Settings.from_json(json.loads(json.dumps(full.to_json()))) == full


def test_whole_numbers_from_python_are_those_of_the_command_line(small_checkpoint: str) -> None:
    whole, floats = (
        settings(scale=number(1), mean=(number(0),) * 3, std=(number(1),) * 3, rescale=number(1))
        for number in (int, float)
    )
    first, second = (
        Job(each, small_checkpoint, "0" * 64, "cpu", ("a",), (None,)) for each in (whole, floats)
    )
    assert first.conflict(second) is None
    assert first.fingerprint == second.fingerprint


def test_rescale_is_for_uint8_alone(small_checkpoint: str, tmp_path: Path) -> None:
    values = picture(100, 80)
    for name, dtype in (("a8", np.uint8), ("b16", np.uint16)):
        write_scene(tmp_path / "in" / f"{name}.tif", 100, 80, values=values.astype(dtype))
    outs = []
    for name, rescale in (("default", None), ("dark", 1 / 2550)):
        outs.append(tmp_path / name)
        asked = settings(scale=1 / 255, rescale=rescale)
        run([str(tmp_path / "in")], small_checkpoint, str(outs[-1]), asked, LOCAL)
    (eight, sixteen), (dark, same) = (
        [row["mask"] for row in rows(out, "masks").to_pylist()] for out in outs
    )
    assert same == sixteen
    assert dark != eight


def test_a_network_of_four_channels_runs_without_a_file(
    archive: str, swath: Swath, tmp_path: Path
) -> None:
    path = weights_file(tmp_path / "m.pth", channels=4)
    code, _, err = swath("model", "inspect", path)
    assert code == 2
    assert (
        "4 channels and there is no preprocessor_config.json; give --mean and --std with 4" in err
    )
    words = [archive, "--checkpoint", path, "--bands", "1,2,3,1", "--runner", "local"]
    numbers = ["--mean", "0,0,0,0", "--std", "1,1,1,1"]
    assert swath("plan", *words, *numbers)[0] == 0


# --- the report -----------------------------------------------------------------------------------


def test_inspect_says_where_each_number_comes_from(
    swath: Swath, small_checkpoint: str, tmp_path: Path
) -> None:
    out = swath("model", "inspect", small_checkpoint)[1]
    assert "input from  preprocessor_config.json\n" in out
    words = ["model", "inspect", small_checkpoint, "--std", "0.3,0.3,0.3"]
    out = swath(*words)[1]
    assert "std 0.3 0.3 0.3\n" in out
    line = "rescale: preprocessor_config.json, mean: preprocessor_config.json, std: --std\n"
    assert f"input from  {line}" in out
    facts = json.loads(swath(*words, "--format", "json")[1])["normalisation"]
    assert facts["std"] == [0.3, 0.3, 0.3]
    assert facts["from"] == {
        "rescale": "preprocessor_config.json",
        "mean": "preprocessor_config.json",
        "std": "--std",
    }
    path = weights_file(tmp_path / "m.pth")
    out = swath("model", "inspect", path)[1]
    assert "input from  assumed, as for ImageNet\n" in out
    assert "ImageNet's normalization is used (values / 255" in out


def test_convert_writes_the_numbers_that_are_given(
    swath: Swath, small_checkpoint: str, tmp_path: Path
) -> None:
    words = ["model", "convert", small_checkpoint, "--to", tmp_path / "to"]
    assert swath(*words, "--mean", "0.3,0.4,0.5", "--std", "0.2,0.25,0.3")[0] == 0
    assert read_checkpoint(str(tmp_path / "to")).normalisation == Normalisation(1 / 255, MEAN, STD)

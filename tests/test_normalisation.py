"""What checkpoints say of their input: legal combinations as they are, contradictions refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segformer import CheckpointError, Normalisation, mit_config, read_checkpoint, write_checkpoint
from segformer.preprocessor import normalisation_of_preprocessor
from tests.support.commands import Swath
from tests.support.foreign_checkpoints import nvlabs, random_checkpoint

IMAGENET_255 = {"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}
SMALL: dict[str, Any] = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 16, 24, 32),
    "num_attention_heads": (1, 2, 3, 4),
    "decoder_hidden_size": 16,
}


def refusal(fields: dict[str, Any]) -> str:
    """The message of the refusal of a preprocessor_config.json."""
    with pytest.raises(CheckpointError) as caught:
        normalisation_of_preprocessor(fields, 3)
    message = str(caught.value)
    assert message.startswith("preprocessor_config.json: ")
    assert "\n" not in message
    return message


# --- what is legal --------------------------------------------------------------------------------


def test_normalisation_follows_the_preprocessor() -> None:
    assert normalisation_of_preprocessor({}, 3) == Normalisation.default(3)
    assert Normalisation.default(3).mean[0] * 255 == pytest.approx(123.675)
    assert Normalisation.default(3).std[2] * 255 == pytest.approx(57.375)
    custom = {"rescale_factor": 1e-4, "image_mean": [0.1] * 4, "image_std": 0.5}
    assert normalisation_of_preprocessor(custom, 4) == Normalisation(1e-4, (0.1,) * 4, (0.5,) * 4)
    plain = normalisation_of_preprocessor({"do_rescale": False, "do_normalize": False}, 2)
    assert plain == Normalisation(1.0, (0.0, 0.0), (1.0, 1.0))
    with pytest.raises(CheckpointError, match="3 values of image_mean and 3 of image_std for 4"):
        normalisation_of_preprocessor({}, 4)
    with pytest.raises(CheckpointError, match=r"4 channels and there is no preprocessor_config"):
        Normalisation.default(4)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        # ImageNet's numbers of stored values, on values that are not rescaled.
        (
            {"do_rescale": False, **IMAGENET_255},
            Normalisation(1.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ),
        # Networks trained on raw numbers of 16 bits, also beside an index of 0 to 1.
        (
            {"do_rescale": False, "image_mean": [1200, 980, 0.3], "image_std": [700, 650, 0.2]},
            Normalisation(1.0, (1200.0, 980.0, 0.3), (700.0, 650.0, 0.2)),
        ),
        (
            {"rescale_factor": 1.0, "image_mean": 1200, "image_std": 700},
            Normalisation(1.0, (1200.0,) * 3, (700.0,) * 3),
        ),
        # Nothing is done to the values, in three ways of saying so.
        (
            {"do_rescale": False, "image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
            Normalisation(1.0, (0.0,) * 3, (1.0,) * 3),
        ),
        (
            {"do_rescale": False, "do_normalize": False, **IMAGENET_255},
            Normalisation(1.0, (0.0,) * 3, (1.0,) * 3),
        ),
        ({"do_normalize": False}, Normalisation(1 / 255, (0.0,) * 3, (1.0,) * 3)),
        # From -1 to 1, in two ways.
        (
            {"image_mean": 0.5, "image_std": 0.5},
            Normalisation(1 / 255, (0.5,) * 3, (0.5,) * 3),
        ),
        (
            {"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1},
            Normalisation(1 / 127.5, (1.0,) * 3, (1.0,) * 3),
        ),
        # Factors for values of 16 bits: beyond 1, but not beyond 65535 of them.
        (
            {"rescale_factor": 1e-4, "image_mean": 1.2, "image_std": 0.5},
            Normalisation(1e-4, (1.2,) * 3, (0.5,) * 3),
        ),
        (
            {"rescale_factor": 1 / 256, "image_mean": 0, "image_std": 1},
            Normalisation(1 / 256, (0.0,) * 3, (1.0,) * 3),
        ),
        # A factor that is not used, and numbers in quotes.
        (
            {"do_rescale": False, "rescale_factor": None, **IMAGENET_255},
            Normalisation(1.0, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ),
        (
            {"rescale_factor": "0.004", "image_mean": ["0.4", "0.4", "0.4"], "image_std": 0.2},
            Normalisation(0.004, (0.4,) * 3, (0.2,) * 3),
        ),
    ],
)
def test_combinations_that_networks_are_trained_with_are_taken_as_they_are(
    fields: dict[str, Any], expected: Normalisation
) -> None:
    assert normalisation_of_preprocessor(fields, 3) == expected


# --- contradictions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        IMAGENET_255,
        {"do_rescale": True, "rescale_factor": 0.00392156862745098, **IMAGENET_255},
        {"rescale_factor": 0.0039, "image_mean": [0.485, 0.456, 0.406], "image_std": [58, 57, 57]},
        {"image_mean": [0.485, 0.456, 1.5]},
        {"rescale_factor": 1e-4, "image_mean": [1200, 980, 700], "image_std": [700, 650, 600]},
        {"rescale_factor": 1 / 65535, **IMAGENET_255},
    ],
)
def test_numbers_of_stored_values_beside_a_rescaling_are_refused(fields: dict[str, Any]) -> None:
    message = refusal(fields)
    assert "(rescale_factor), no value is beyond " in message
    assert 'write "do_rescale": false if they are of values as stored' in message


@pytest.mark.parametrize(
    "fields",
    [
        {"do_rescale": False},
        {"do_rescale": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"rescale_factor": 1.0, "image_mean": [0.485, 0.456, 0.406]},
        {"rescale_factor": 1, "image_mean": 0, "image_std": 0.25},
    ],
)
def test_numbers_of_0_to_1_without_a_rescaling_are_refused(fields: dict[str, Any]) -> None:
    message = refusal(fields)
    assert "of values from 0 to 1, but values are not rescaled to that (do_rescale" in message
    assert 'write "do_rescale": true and "rescale_factor": 0.00392156862745098' in message


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_std": [NAN] * 3}, "image_std nan nan nan: not all are finite"),
        ({"image_mean": [INF, 0.4, 0.4]}, "image_mean inf 0.4 0.4 and"),
        ({"rescale_factor": NAN}, "rescale_factor nan must be a positive number; write"),
        ({"image_std": [0.2, 0, 0.2]}, "must be positive; write the numbers"),
        ({"image_std": [0.2, -0.2, 0.2]}, "image_std 0.2 -0.2 0.2"),
        ({"rescale_factor": 0}, "rescale_factor 0 must be a positive number"),
        ({"rescale_factor": -1}, "rescale_factor -1 must be a positive"),
        ({"image_mean": None, "image_std": None}, "image_mean is null; write one number per"),
        ({"image_std": None}, "image_std is null; write one number per channel, or remove it"),
        ({"rescale_factor": None}, "rescale_factor is null; write a number, or remove it"),
        ({"rescale_factor": "1/255"}, 'rescale_factor is "1/255"; write a number'),
        ({"rescale_factor": [0.1, 0.2]}, "rescale_factor is [0.1, 0.2]; write a number"),
        ({"rescale_factor": []}, "rescale_factor is []; write a number"),
        ({"image_mean": "imagenet"}, 'image_mean is "imagenet"; write one number per channel'),
        ({"image_mean": [0.4, None, 0.4]}, "image_mean is [0.4, null, 0.4]; write one number"),
        ({"image_mean": [[0.4], [0.4], [0.4]]}, "image_mean is [[0.4], [0.4], [0.4]]; write"),
        ({"image_mean": {"r": 0.4}}, 'image_mean is {"r": 0.4}; write one number per channel'),
        ({"image_mean": [True, 0.4, 0.4]}, "image_mean is [true, 0.4, 0.4]"),
        ({"image_mean": 10**400}, "image_mean is 1000"),
        ({"image_mean": [0.4]}, "1 values of image_mean and 3 of image_std for 3 channels"),
        ({"image_std": []}, "3 values of image_mean and 0 of image_std for 3 channels"),
        ({"do_rescale": None}, "do_rescale is null; write true or false, or remove it for true"),
        ({"do_rescale": "false"}, 'do_rescale is "false"; write true or false'),
        ({"do_normalize": "no"}, 'do_normalize is "no"; write true or false'),
    ],
)
def test_what_is_no_normalisation_is_refused_with_its_field(
    fields: dict[str, Any], words: str
) -> None:
    assert words in refusal(fields)


def test_what_is_not_used_is_not_checked() -> None:
    fields = {"do_normalize": False, "image_mean": None, "image_std": [NAN] * 3}
    plain = Normalisation(1 / 255, (0.0,) * 3, (1.0,) * 3)
    assert normalisation_of_preprocessor(fields, 3) == plain


def test_a_checkpoint_with_a_contradiction_is_refused_in_one_line(
    swath: Swath, tmp_path: Path
) -> None:
    write_checkpoint(random_checkpoint(mit_config("b0", 3, **SMALL)), str(tmp_path / "model"))
    path = tmp_path / "model" / "preprocessor_config.json"
    path.write_text(json.dumps({"do_rescale": True, **IMAGENET_255}))
    code, out, err = swath("model", "inspect", tmp_path / "model")
    assert (code, out) == (2, "")
    assert err == (
        f"swath: error: {tmp_path / 'model'}: preprocessor_config.json: image_mean 123.7 116.3"
        " 103.5 and image_std 58.4 57.12 57.38: rescaled by 0.003922 (rescale_factor), no value is"
        ' beyond 1; write "do_rescale": false if they are of values as stored, else multiply both'
        " by the rescale_factor\n"
    )
    path.write_text(json.dumps({"do_rescale": False, **IMAGENET_255}))
    assert swath("model", "inspect", tmp_path / "model")[0] == 0


# --- mmsegmentation's training configuration ------------------------------------------------------


def save_trained(path: Path, mean: str, std: str) -> Path:
    """A file of weights whose `meta` has a training configuration with this mean and std."""
    weights = nvlabs(random_checkpoint(mit_config("b0", 3, **SMALL)).weights)
    text = f"data_preprocessor = dict(mean=[{mean}], std=[{std}])"
    torch.save({"state_dict": weights, "meta": {"cfg": text}}, path)
    return path


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ("0.485, 0.456, 0.406", "0.229, 0.224, 0.225", "of values from 0 to 1, but values are not"),
        ("1.0, 2.0, 3.0", "1.0, 1.0, 0.0", "must be positive"),
        ("nan, 1, 1", "1, 1, 1", "a mean of nan 1 1 and a std of 1 1 1: not all are finite"),
    ],
)
def test_a_training_configuration_that_contradicts_itself_is_refused(
    mean: str, std: str, words: str, tmp_path: Path
) -> None:
    path = save_trained(tmp_path / "m.pth", mean, std)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: its training configuration states a mean of ")
    assert words in message
    assert "write a preprocessor_config.json beside the file with the rescale_factor" in message
    fields = {"image_mean": 0.5, "image_std": 0.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    assert read_checkpoint(str(path)).normalisation.mean == (0.5,) * 3


def test_a_training_configuration_without_normalisation_is_taken(tmp_path: Path) -> None:
    path = save_trained(tmp_path / "m.pth", "0., 0., 0.", "1., 1., 1.")
    assert read_checkpoint(str(path)).normalisation == Normalisation(
        1 / 255, (0.0,) * 3, (1 / 255,) * 3
    )


def test_a_network_of_raw_numbers_is_converted_to_a_folder_that_says_so(
    swath: Swath, tmp_path: Path
) -> None:
    """Its numbers of rescaled values would be a contradiction in transformers' file."""
    path = save_trained(tmp_path / "m.pth", "1200., 980., 700.", "700., 650., 600.")
    before = read_checkpoint(str(path)).normalisation
    assert before.rescale == 1 / 255
    assert before.mean == pytest.approx((1200 / 255, 980 / 255, 700 / 255))
    code, _, err = swath("model", "convert", path, "--to", tmp_path / "folder")
    assert code == 0
    assert "as stored; the folder says so (do_rescale false): give it --scale 1 where the" in err
    after = read_checkpoint(str(tmp_path / "folder")).normalisation
    assert after.rescale == 1.0
    assert after.mean == pytest.approx((1200, 980, 700), rel=1e-12)
    assert after.std == pytest.approx((700, 650, 600), rel=1e-12)
    again = replace(random_checkpoint(mit_config("b0", 3, **SMALL)), normalisation=after)
    write_checkpoint(again, str(tmp_path / "again"))
    assert read_checkpoint(str(tmp_path / "again")).normalisation == after

"""Networks that were trained on other values than 0 to 1: what is said about --scale, and shown."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.api import plan, run
from pipeline.imagery.brightness import BrightnessTally, range_warning
from pipeline.job import Job
from pipeline.settings import Execution, Settings, Trial
from segformer import Normalisation, load_model, mit_config
from tests.support.archives import picture, write_scene
from tests.support.checkpoints import SMALL, random_checkpoint, save_checkpoint

SETTINGS = Settings(window=128, stride=96, batch=2)
LOCAL = Execution(runner="local")
RAW = Normalisation(1 / 255, (5.9, 6.5, 7.0), (3.0, 3.0, 2.5))
"""The normalization of a network trained on digital numbers up to 4,000, divided by 255."""


@pytest.mark.parametrize(
    ("rescale", "mean", "std", "expected"),
    [
        (1 / 255, 0.485, 0.229, (0.0, 1.0)),
        (1 / 255, 0.5, 0.5, (0.0, 1.0)),
        (1 / 255, 0.0, 1.0, (0.0, 1.0)),
        (1.0, 0.15, 0.05, (0.0, 1.0)),
        (0.0001, 0.15, 0.05, (0.0, 1.0)),
        (1.0, 0.0, 1.0, None),
        (1.0, 1500.0, 800.0, (-900.0, 3900.0)),
        (1.0, 123.0, 58.0, (-51.0, 297.0)),
        (1.0, 0.0, 10_000.0, (-30_000.0, 30_000.0)),
        (1 / 255, 20.0, 2.0, (0.0, 26.0)),
    ],
)
def test_mean_and_deviation_say_what_values_a_network_expects(
    rescale: float, mean: float, std: float, expected: tuple[float, float] | None
) -> None:
    assert Normalisation(rescale, (mean,) * 3, (std,) * 3).expected == expected


def test_a_job_keeps_the_range() -> None:
    job = Job(SETTINGS, "/model", "0" * 64, "cpu", ("a",), (None,), value_range=(-3.0, 15.0))
    assert Job.from_json(job.to_json()) == job
    unknown = replace(job, value_range=None)
    assert Job.from_json(unknown.to_json()) == unknown
    assert unknown.fingerprint == job.fingerprint  # it decides no row
    record = job.to_json()
    del record["value_range"]  # an earlier Swath's
    assert Job.from_json(record) == unknown


def test_the_warning_follows_the_range() -> None:
    raw = (-3.0, 15.0)
    assert range_warning("the", (0.0, 14.0), raw) is None
    assert range_warning("the", (0.0, 0.4), raw) == (
        "the values end at 0.4, but the network expects -3 to 15: check --scale and --nodata"
    )
    assert range_warning("the", (0.0, 25.0), raw) == (
        "the values run from 0 to 25, but the network expects -3 to 15: check --scale and --offset"
    )
    assert range_warning("the", (0.0, 14.0), None) is None
    for expected in (None, raw):
        tally = BrightnessTally(expected)
        for high in (25.0, 14.0, 26.0):
            tally.add((0.0, high))
        assert (tally.warning is None) == (expected is None)


def test_a_network_trained_on_digital_numbers_is_warned_of_reflectances(tmp_path: Path) -> None:
    config = mit_config("b0", 4, **SMALL)
    folder = save_checkpoint(random_checkpoint(config, seed=1, normalisation=RAW), tmp_path / "c")
    numbers = picture(300, 200).astype(np.uint16) * 15
    write_scene(tmp_path / "in" / "a.tif", 300, 200, values=numbers)
    trial = Trial(sample=1, sample_to=str(tmp_path / "pictures"))

    def notes(scale: float) -> tuple[str, str]:
        """The notes of a run and of a plan."""
        settings = replace(SETTINGS, scale=scale)
        arguments = [str(tmp_path / "in")], folder
        receipt = run(*arguments, str(tmp_path / f"{scale}"), settings, LOCAL)
        estimate = plan(*arguments, settings, LOCAL, trial=trial)
        return "\n".join(receipt.notes), "\n".join(estimate.notes)

    for text in notes(load_model(folder).normalisation.rescale):
        assert "values" not in text
    with Image.open(io.BytesIO((tmp_path / "pictures" / "sample-001.png").read_bytes())) as image:
        shown = np.asarray(image)[:, :300]
    white = (numbers.transpose(1, 2, 0) / 255 / 15.5 * 255).clip(0, 255)
    assert np.abs(shown - white).max() < 1
    for text in notes(0.0001):
        assert "but the network expects -790 to 3.95e+03: check --scale" in text

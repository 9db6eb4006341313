"""--scale applies only to scenes that are not uint8."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.api import run
from pipeline.settings import Execution, Settings
from segformer import load_model
from tests.support.archives import picture, write_scene
from tests.support.outputs import rows


def test_a_uint8_scene_beside_others_is_not_scaled(small_checkpoint: str, tmp_path: Path) -> None:
    values = picture(200, 150)
    write_scene(tmp_path / "in" / "a8.tif", 200, 150, values=values)
    write_scene(tmp_path / "in" / "b16.tif", 200, 150, values=values.astype(np.uint16) * 10)
    scale = load_model(small_checkpoint).normalisation.rescale / 10
    settings = Settings(window=128, stride=96, scale=scale)
    out = tmp_path / "out"
    run([str(tmp_path / "in")], small_checkpoint, str(out), settings, Execution(runner="local"))
    eight, sixteen = rows(out, "masks").to_pylist()
    ids = [np.frombuffer(row["mask"], np.uint8) for row in (eight, sixteen)]
    assert (ids[0] != ids[1]).mean() < 1e-4  # 10 * v * (s / 10) and v * s differ in the last bit
    assert len(np.unique(ids[0])) > 1

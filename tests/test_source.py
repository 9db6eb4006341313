"""The seam for new kinds of input: a second source goes through plan and run like image files, and
plans written before sources existed can still be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.api import plan, run
from pipeline.errors import UnfinishedError, UsageError
from pipeline.imagery.source import SOURCES, find_inputs, source_of
from pipeline.output.layout import Output
from pipeline.output.shard import Shard
from pipeline.scene import RASTER, Rect, Scene
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.unit import Block, Unit
from tests.support.archives import mask_of, picture, write_scene
from tests.support.outputs import differences, rows
from tests.support.strips import NAME, StripSource

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")
HEIGHTS = (200, 1, 500)


@pytest.fixture
def strip_source(monkeypatch: pytest.MonkeyPatch) -> StripSource:
    """A source in front of the image files, which accept every INPUT."""
    source = StripSource()
    rasters = SOURCES[RASTER]
    monkeypatch.delitem(SOURCES, RASTER)
    monkeypatch.setitem(SOURCES, NAME, source)
    monkeypatch.setitem(SOURCES, RASTER, rasters)
    return source


@pytest.fixture
def values() -> np.ndarray:
    return picture(150, sum(HEIGHTS), seed=3)


@pytest.fixture
def strips(tmp_path: Path, values: np.ndarray) -> Path:
    ends = np.cumsum(HEIGHTS)
    for end, height in zip(ends, HEIGHTS, strict=True):
        np.save(tmp_path / f"{height}.npy", values[:, end - height : end])
    listing = tmp_path / "all.strips"
    listing.write_text("\n".join(f"{height}.npy" for height in HEIGHTS))
    return listing


def test_a_scene_of_many_files_has_the_mask_of_one_file_with_the_same_pixels(
    tmp_path: Path,
    strip_source: StripSource,
    strips: Path,
    values: np.ndarray,
    small_checkpoint: str,
) -> None:
    image = write_scene(tmp_path / "all.tif", 150, sum(HEIGHTS), values=values)
    inputs, out = [str(strips), str(image)], tmp_path / "out"
    counts: list[tuple[int, int]] = []
    estimate = plan(
        inputs, small_checkpoint, SETTINGS, LOCAL, on_described=lambda *n: counts.append(n)
    )
    assert estimate.scenes == 2
    # The headers of three strips, then that of one image.
    assert counts[0] == (1, 4)
    assert counts[2] == (3, 4)
    receipt = run(inputs, small_checkpoint, str(out), SETTINGS, replace(LOCAL, block=512))
    assert receipt.scenes_done == 2
    np.testing.assert_array_equal(mask_of(out, "all.strips"), mask_of(out, "all.tif"))
    # The first block's halo ends in the last strip; the second block needs no other.
    assert strip_source.opened == ["200.npy", "1.npy", "500.npy", "500.npy"]


def test_a_second_run_computes_nothing_and_a_changed_member_is_noted(
    tmp_path: Path, strip_source: StripSource, strips: Path, small_checkpoint: str
) -> None:
    arguments = [str(strips)], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL
    run(*arguments)
    strip_source.opened.clear()
    assert run(*arguments).units_computed == 0
    np.save(tmp_path / "1.npy", np.zeros((3, 1, 150), np.uint8))
    (tmp_path / "1.npy").touch()
    (note,) = run(*arguments).notes
    assert f"1 input has changed since it was planned, first {strips}" in note
    assert strip_source.opened == []


def test_a_damaged_member_is_quarantined(
    tmp_path: Path, strip_source: StripSource, strips: Path, small_checkpoint: str
) -> None:
    del strip_source
    (tmp_path / "1.npy").write_bytes(b"no array")
    image = write_scene(tmp_path / "good.tif", 100, 80)
    out = tmp_path / "out"
    receipt = run([str(image), str(strips)], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (1, 1)
    (row,) = rows(out, "quarantine").to_pylist()
    assert (row["scene_id"], row["url"], row["stage"]) == ("all.strips", str(strips), "describe")
    assert "1.npy: its header cannot be read" in row["message"]


def test_two_sources_may_not_name_one_scene(
    tmp_path: Path, strip_source: StripSource, strips: Path
) -> None:
    del strip_source
    other = write_scene(tmp_path / "sub" / "all.strips", 100, 80)
    with pytest.raises(UsageError, match=r"would both be scene 'all\.strips'"):
        find_inputs([str(strips), str(other.parent / "*.str*")], DEFAULT_ACCESS)


def scene(**changes: object) -> Scene:
    fields = {
        "scene_id": "a.tif",
        "url": "/in/a.tif",
        "version": "12-345",
        "sidecars": (),
        "width": 700,
        "height": 300,
        "bands": (1, 2, 3),
        "dtype": "uint8",
        "nodata": None,
        "crs": None,
        "transform": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        "datetime": None,
        "striped": False,
    }
    return Scene(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_scene_is_an_image_file_unless_it_says_otherwise() -> None:
    assert scene().source == RASTER
    assert source_of(scene()) is SOURCES[RASTER]
    with pytest.raises(UnfinishedError, match=r"/in/a\.tif: planned as 'of the future'"):
        source_of(scene(source="of the future"))


def test_the_source_is_recorded_but_does_not_change_unit_ids() -> None:
    raster, strips = scene(), scene(source=NAME)
    units = [Unit("000000", (Block(s, Rect(0, 0, 700, 300)),)) for s in (raster, strips)]
    assert units[0].unit_id == units[1].unit_id
    shard = Shard("000000", (strips,), (units[1],), ())
    assert Shard.from_json(json.loads(json.dumps(shard.to_json()))) == shard


def test_a_plan_written_before_sources_existed_is_resumed(
    tmp_path: Path, small_checkpoint: str
) -> None:
    write_scene(tmp_path / "in" / "a.tif", 200, 150)
    out, untouched = tmp_path / "out", tmp_path / "untouched"
    for output in (out, untouched):
        run([str(tmp_path / "in")], small_checkpoint, str(output), SETTINGS, LOCAL)
    (record,) = (out / "plan").glob("*.json")
    columns = json.loads(record.read_text())
    assert columns["scenes"].pop("source") == [RASTER]
    record.write_text(json.dumps(columns))
    assert list(Output.open(str(out)).shards()) == list(Output.open(str(untouched)).shards())
    write_scene(tmp_path / "in" / "b.tif", 200, 150)
    receipt = run([str(tmp_path / "in")], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert (receipt.scenes_done, receipt.units_computed) == (2, 1)
    run([str(tmp_path / "in")], small_checkpoint, str(untouched), SETTINGS, LOCAL)
    assert differences(out, untouched) == []

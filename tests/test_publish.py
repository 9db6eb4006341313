"""Publishing a shard: the order of its rows, its reads, and failures on the way."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import api
from pipeline.errors import UnfinishedError
from pipeline.output import parquet
from pipeline.output.hilbert import hilbert
from pipeline.output.layout import Output
from pipeline.output.publishing import publish
from pipeline.output.query import query
from pipeline.output.spool import Spool
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene
from tests.support.outputs import differences, files, stray_files


def test_neighbours_on_the_curve_are_neighbours_on_the_map() -> None:
    side = 64
    lon = (np.arange(side) + 0.5) / side * 360 - 180
    lat = (np.arange(side) + 0.5) / side * 180 - 90
    places = np.stack(np.meshgrid(lon, lat), axis=-1).reshape(-1, 2)
    positions = hilbert(places)
    assert len(set(positions.tolist())) == side * side
    cells = (places + np.array([180, 90])) / np.array([360 / side, 180 / side])
    steps = np.abs(np.diff(cells[np.argsort(positions)], axis=0)).sum(axis=1)
    assert (steps.round(6) == 1).all()  # the definition of the curve, cell by cell


def test_tiles_without_coordinates_come_first() -> None:
    positions = hilbert(np.array([[0.0, 0.0], [np.nan, np.nan], [180.0, 90.0], [-180.0, -90.0]]))
    assert positions[1] == -1
    assert (positions[[0, 2, 3]] >= 0).all()
    assert hilbert(np.empty((0, 2))).shape == (0,)


def test_every_unit_is_read_once_wherever_its_tiles_belong(
    tmp_path: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many pictures of one place: neighbours in the table come from different units."""
    for number in range(4):
        write_scene(tmp_path / "in" / f"{number}.tif", 1100, 1030, seed=number)
    reads: Counter[str] = Counter()
    read_table = pq.read_table

    def counting(file: Any, **arguments: Any) -> pa.Table:
        reads[file.name] += 1
        return read_table(file, **arguments)

    monkeypatch.setattr(parquet.pq, "read_table", counting)
    api.run([str(tmp_path / "in")], small_checkpoint, str(tmp_path / "out"), *SMALL)
    assert len(reads) > 3
    assert set(reads.values()) == {1}
    masks = read_table(tmp_path / "out" / "masks" / "000000.parquet", columns=["scene_id"])
    scenes = masks["scene_id"].to_pylist()
    assert scenes != sorted(scenes)


SMALL = (Settings(window=64, stride=64), Execution(runner="local"))


def test_a_full_temporary_folder_is_named_and_nothing_is_lost(
    tmp_path: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene(tmp_path / "in" / "a.tif", 700, 600)
    inputs, out = [str(tmp_path / "in")], str(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", lambda dir: open("/dev/full", "r+b"))  # noqa: ARG005, SIM115
        with pytest.raises(UnfinishedError, match=r"out: No space left on device"):
            api.run(inputs, small_checkpoint, out, *SMALL)
    assert api.run(inputs, small_checkpoint, out, *SMALL).windows == 0
    api.run(inputs, small_checkpoint, str(tmp_path / "calm"), *SMALL)
    assert not differences(out, str(tmp_path / "calm"))


def test_pixels_outside_the_crs_have_no_area(tmp_path: Path, small_checkpoint: str) -> None:
    """The pixels of a.tif measure 10 degrees, so that nearly all of them are beyond the poles."""
    write_scene(tmp_path / "in" / "a.tif", 100, 60, crs="EPSG:4326")
    write_scene(tmp_path / "in" / "b.tif", 100, 60)
    out = tmp_path / "out"
    receipt = api.run([str(tmp_path / "in")], small_checkpoint, str(out), *SMALL)
    (commit,) = Output.open(str(out)).commits()
    assert dict(commit.pixels_without_area) == {"a.tif": 6000}
    assert receipt.pixels_without_area == 6000
    rows = query(str(out), "SELECT scene_id, sum(area_m2) AS m2 FROM statistics GROUP BY ALL")
    area_of = {row["scene_id"]: row["m2"] for row in rows.to_pylist()}
    assert area_of == {"a.tif": 0.0, "b.tif": pytest.approx(6e5, rel=2e-3)}


def test_repeating_a_publication_only_deletes_leftover_unit_files(
    tmp_path: Path, small_checkpoint: str
) -> None:
    """When another process repeats a publication, some unit files may be gone already."""
    write_scene(tmp_path / "in" / "a.tif", 700, 600)
    out = tmp_path / "out"
    api.run([str(tmp_path / "in")], small_checkpoint, str(out), *SMALL)
    output = Output.open(str(out))
    (shard,) = output.shards()
    output.store.write("work/000000/left.parquet", b"")
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    publish(output, shard)
    assert stray_files(out) == []
    assert all((out / name).stat().st_mtime_ns == before[name] for name in files(out))


def test_a_folder_for_temporary_files_that_cannot_be_written_to_is_named() -> None:
    with pytest.raises(UnfinishedError, match=r"^/proc/nonexistent: .*TMPDIR can name another"):
        Spool("/proc/nonexistent")

"""Inputs on web servers, with and without range requests, and with answers that fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.api import run
from pipeline.errors import TransientError, UnfinishedError, UsageError
from pipeline.imagery.source import find_inputs
from pipeline.settings import Execution, Settings
from pipeline.storage.access import Access
from tests.support.archives import write_scene
from tests.support.outputs import differences, rows
from tests.support.web_server import Server, serving

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_scene(tmp_path / "in" / "a.tif", 700, 650, seed=1)
    (tmp_path / "in" / "damaged.tif").write_bytes((tmp_path / "in" / "a.tif").read_bytes()[:9000])
    return tmp_path / "in"


@pytest.fixture(params=["ranges", "whole files", "failing"])
def server(request: pytest.FixtureRequest, archive: Path) -> Iterator[Server]:
    fails = 4 if request.param == "failing" else 0
    with serving(
        Server(archive, ranges=request.param != "whole files", fails_every=fails)
    ) as server:
        yield server


@pytest.fixture
def plain_server(archive: Path) -> Iterator[Server]:
    with serving(Server(archive)) as server:
        yield server


def test_the_rows_are_those_of_the_file_on_disk(
    server: Server, archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    names = ["a.tif", "damaged.tif"]
    files, urls = [str(archive / n) for n in names], [f"{server.url}/{n}" for n in names]
    run(files, small_checkpoint, str(tmp_path / "disk"), SETTINGS, LOCAL)
    receipt = run(urls, small_checkpoint, str(tmp_path / "web"), SETTINGS, LOCAL)
    assert differences(tmp_path / "disk", tmp_path / "web", "masks", "statistics") == []
    assert {failure.scene_id for failure in receipt.failures} == {"damaged.tif"}


def test_a_missing_file_is_refused_before_anything_is_written(
    server: Server, small_checkpoint: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"b\.tif: no such file"):
        run([f"{server.url}/b.tif"], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert not (tmp_path / "out").exists()


HASTY = Access(patience_s=1.0)


def test_a_file_that_its_server_fails_to_deliver_is_retried_by_the_next_run(
    plain_server: Server, archive: Path, small_checkpoint: str, tmp_path: Path
) -> None:
    write_scene(archive / "b.tif", 200, 150, seed=2)
    urls = [f"{plain_server.url}/{name}.tif" for name in "ab"]
    execution = Execution(runner="local", access=HASTY)
    plain_server.broken.add("b.tif")
    for _ in range(2):
        with pytest.raises(UnfinishedError, match=r"does not give .*/b.tif; all else is done"):
            run(urls, small_checkpoint, str(tmp_path / "out"), SETTINGS, execution)
        assert rows(tmp_path / "out", "scenes")["scene_id"].to_pylist() == ["a.tif"]
        assert rows(tmp_path / "out", "quarantine").num_rows == 0
    plain_server.broken.clear()
    receipt = run(urls, small_checkpoint, str(tmp_path / "out"), SETTINGS, execution)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (2, 0)
    run(urls, small_checkpoint, str(tmp_path / "fresh"), SETTINGS, execution)
    assert differences(tmp_path / "fresh", tmp_path / "out") == []


def test_a_server_that_delivers_nothing_stops_the_run(
    plain_server: Server, small_checkpoint: str, tmp_path: Path
) -> None:
    plain_server.broken |= {"a.tif", "damaged.tif"}
    urls = [f"{plain_server.url}/{name}.tif" for name in ("a", "damaged")]
    execution = Execution(runner="local", access=HASTY)
    with pytest.raises(TransientError, match=r"\.tif: the store fails \(500\)"):
        run(urls, small_checkpoint, str(tmp_path / "out"), SETTINGS, execution)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.tif", "a.tif.msk"])
def test_an_error_of_the_server_is_not_taken_for_a_missing_file(
    plain_server: Server, name: str
) -> None:
    (file,) = find_inputs([f"{plain_server.url}/a.tif"], HASTY)
    assert file.sidecars == ()
    plain_server.unavailable.add(name)
    with pytest.raises(TransientError, match=r"the store fails \(503\)"):
        find_inputs([f"{plain_server.url}/a.tif"], HASTY)


def test_a_server_that_sends_no_content_length_is_refused_with_a_remedy(
    plain_server: Server, small_checkpoint: str, tmp_path: Path
) -> None:
    plain_server.sends_lengths = False
    url = f"{plain_server.url}/a.tif"
    with pytest.raises(UsageError, match=r"no Content-Length.*; download it") as refused:
        run([url], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert str(refused.value).count(url) == 1

"""The edge: arguments in, exit codes out, results on stdout and all else on stderr."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import Affine

import pipeline.api
from pipeline.estimate import Estimate
from segformer import ModelConfig
from tests.support.archives import write_scene
from tests.support.checkpoints import random_checkpoint, save_checkpoint
from tests.support.commands import READING, Swath, assert_one_error_line
from tests.support.estimates import estimate

HEAVY = ("torch", "ray", "rasterio", "pyarrow", "duckdb", "rich")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with a CRS, one of which is a text file in disguise, and a tiny checkpoint."""
    root = tmp_path_factory.mktemp("archive")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 100, 120), np.uint8)
    (root / "images").mkdir()
    place = Affine(0.01, 0, 10, 0, -0.01, 50)
    with rasterio.open(
        root / "images" / "good.tif", "w", driver="GTiff", width=120, height=100, count=3,
        dtype="uint8", crs="EPSG:4326", transform=place,
    ) as file:  # fmt: skip
        file.write(pixels)
    (root / "images" / "text.tif").write_text("not an image")
    config = ModelConfig(
        depths=(1, 1, 1, 1),
        hidden_sizes=(8, 8, 8, 8),
        num_attention_heads=(1, 1, 1, 1),
        decoder_hidden_size=8,
    )
    save_checkpoint(random_checkpoint(config, seed=0), root / "checkpoint")
    return root


def arguments(archive: Path) -> list[object]:
    window = ["--window", 64, "--stride", 48, "--batch", 2, "--runner", "local"]
    return [archive / "images", "--checkpoint", archive / "checkpoint", *window]


def test_plan_run_status_query_in_turn(swath: Swath, archive: Path) -> None:
    given, out = arguments(archive), archive / "out"

    code, stdout, stderr = swath("plan", *given, "--format", "json")
    assert code == 0, stderr
    estimate = json.loads(stdout)
    assert (estimate["inputs"], estimate["scenes"], len(estimate["failures"])) == (2, 1, 1)
    assert estimate["earlier"] is None
    code, stdout, _ = swath("plan", *given)
    assert code == 0
    assert "\nwould be quarantined: " in stdout
    assert stdout.count("text.tif") == 1
    assert "see quarantine" not in stdout  # nothing is written
    assert "there is no output yet" not in stdout
    code, stdout, _ = swath("plan", *given, "--output", out)
    assert (code, f"note: {out}: there is no output yet, so all is counted" in stdout) == (0, True)
    assert not out.exists()

    code, stdout, stderr = swath("run", *given, "--output", out)
    assert code == 3, stderr
    assert "note: 1 of 2 inputs cannot be used: see quarantine; the first: " in stderr
    assert "scenes      2 planned: 1 done, 1 quarantined" in stdout
    assert "quarantine  1 row" in stdout
    assert "Mpx" in stderr  # progress
    assert f'swath query {out} "SELECT * FROM quarantine"' in stderr

    code, stdout, _ = swath("status", out, "--format", "json")
    report = json.loads(stdout)
    assert (code, report["finished"], report["quarantined"]) == (0, True, 1)
    code, stdout, _ = swath("status", out)
    assert (code, "finished" in stdout) == (0, True)
    assert "scenes       2 of 2 published" in stdout
    code, stdout, _ = swath("plan", *given, "--output", out)
    assert code == 0
    assert "scenes       0 to segment\n" in stdout
    assert "done         0.012 Mpx by earlier runs" in stdout
    assert "quarantined  0.0 Mpx, 1 scene by earlier runs" in stdout

    sql = "SELECT scene_id, status FROM scenes ORDER BY 1"
    code, stdout, stderr = swath("query", out, sql, "--format", "json")
    assert (code, stderr) == (0, "")
    assert json.loads(stdout) == [
        {"scene_id": "good.tif", "status": "done"},
        {"scene_id": "text.tif", "status": "quarantined"},
    ]
    code, _, stderr = swath("run", *given, "--output", out, "--window", 128)
    assert code == 2
    assert "window" in stderr

    code, stdout, _ = swath("query", out, "SELECT 1 AS a, 'x,y' AS b", "--format", "csv")
    assert (code, stdout) == (0, 'a,b\n1,"x,y"\n')
    code, stdout, _ = swath("query", out, "SELECT 1 AS a")
    assert code == 0
    assert stdout.split() == ["a", "─", "1", "(1", "row)"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "INPUT"),
        (["x"], "--checkpoint"),
        (["x", "--checkpoint", "c"], "--output"),
        (["x", "--checkpoint", "c", "--output", "o", "--window", "10"], "--window 10"),
        (["x", "--checkpoint", "c", "--output", "o", "--window", "ten"], "'ten'"),
        (["x", "--checkpoint", "c", "--output", "o", "--stride", "513"], "--stride 513"),
        (["x", "--checkpoint", "c", "--output", "o", "--dtype", "int8"], "'int8'"),
        (["x", "--checkpoint", "c", "--output", "o", "--bands", "4;3"], "'4;3'"),
        (["x", "--checkpoint", "c", "--output", "o", "--bands", "0,1,2"], "--bands"),
        (["x", "--checkpoint", "c", "--output", "o", "--offset", "1"], "--scale"),
        (["x", "--checkpoint", "c", "--output", "o", "--block", "1000"], "--block 1000"),
        (["x", "--checkpoint", "c", "--output", "o", "--replicas", "0"], "--replicas 0"),
        (["x", "--checkpoint", "c", "--output", "o", "--runner", "dask"], "'dask'"),
        (["x", "--checkpoint", "c", "--output", "o", "--nope"], "--nope"),
        (["/no/such/folder", "--checkpoint", "/no/such/c", "--output", "/no/o"], "/no/such"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(swath: Swath, given: list[str], says: str) -> None:
    code, stdout, stderr = swath("run", *given)
    assert (code, stdout) == (2, "")
    assert_one_error_line(stderr)
    assert says in stderr


@pytest.mark.parametrize("command", ["status", "query"])
def test_what_is_no_output_ends_with_2(swath: Swath, tmp_path: Path, command: str) -> None:
    more = ["SELECT 1"] if command == "query" else []
    code, stdout, stderr = swath(command, tmp_path / "missing", *more)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert "missing" in stderr


def test_nan_is_a_nodata_value(monkeypatch: pytest.MonkeyPatch, swath: Swath) -> None:
    seen: list[Any] = []

    def planned(*given: Any) -> Estimate:
        seen.append(given)
        return estimate()

    monkeypatch.setattr(pipeline.api, "plan", planned)
    options = "--bands 4,3,2 --nodata nan --scale 1e-4 --offset -0.1 --block 1024 --replicas 2"
    code, _, stderr = swath("plan", "a", "b", "--checkpoint", "c", *options.split())
    assert (code, stderr) == (0, READING)
    ((inputs, checkpoint, settings, execution, output, _, _),) = seen
    assert (inputs, checkpoint, output) == (("a", "b"), "c", None)
    assert (settings.bands, settings.scale, settings.offset) == ((4, 3, 2), 1e-4, -0.1)
    assert np.isnan(settings.nodata)
    assert (execution.block, execution.replicas, execution.runner) == (1024, 2, "ray")


def test_an_interrupted_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, swath: Swath
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.api, "run", interrupted)
    code, stdout, stderr = swath("run", "a b", "--checkpoint", "c", "--output", "o")
    assert (code, stdout) == (1, "")
    assert "run the same command again: swath run 'a b' --checkpoint c --output o" in stderr
    assert "Traceback" not in stderr


def python(code: str, *more: str) -> str:
    command = [sys.executable, "-c", code, *more]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


LOADED = """
import sys
from jobs.cli import main
try:
    main(sys.argv[2:])
except SystemExit:
    pass
print("LOADED", [name for name in sys.argv[1].split(",") if name in sys.modules])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "x"], ["--version"]])
def test_help_and_refusals_load_nothing_heavy(arguments: list[str]) -> None:
    assert "LOADED []" in python(LOADED, ",".join(HEAVY), *arguments)


@pytest.mark.parametrize("arguments", [["status", "/missing"], ["query", "/missing", "SELECT 1"]])
def test_reading_an_output_loads_neither_torch_nor_ray(arguments: list[str]) -> None:
    assert "LOADED []" in python(LOADED, "torch,ray", *arguments)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("plan", ""),
        ("plan", "--sample 1 --sample-to {folder}"),
        ("run", "--runner local --output {folder}"),
    ],
)
def test_a_plan_and_a_local_run_import_no_ray(
    archive: Path, tmp_path: Path, command: str, options: str
) -> None:
    """Not even the plan of a run on Ray: only joining a cluster needs it before the run."""
    folder = tmp_path / "folder"
    given = [str(archive / "images"), "--checkpoint", str(archive / "checkpoint")]
    given += ["--window", "64", "--stride", "48", "--batch", "2"]
    given += options.format(folder=folder).split()
    assert "LOADED ['torch']" in python(LOADED, "torch,ray", command, *given)
    assert folder.exists() == bool(options)


FLOOD = """
import click
from jobs.cli import main, swath

@swath.command()
def flood():
    for _ in range(10_000):
        click.echo("x" * 1000)

main(["flood"])
"""


def test_a_closed_pipe_is_quiet() -> None:
    """The reader goes away after one byte, as `head` does after ten lines."""
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_parquet_goes_to_stdout(archive: Path) -> None:
    main_module = [sys.executable, "-m", "jobs.cli"]
    out = archive / "piped"
    command = [*main_module, "run", *map(str, arguments(archive)), "--output", str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
    ask = [*main_module, "query", str(out), "FROM classes", "--format", "parquet"]
    result = subprocess.run(ask, capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(result.stdout)).num_rows == 2
    assert result.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "IN", "--output", ""], 2, "an empty path"),
        (["run", "", "--output", "OUT"], 2, "an empty path"),
        (["run", "IN", "--output", "IN/a.tif"], 2, "is a file; name a folder"),
        (["run", "IN", "--output", "IN/a.tif/x"], 2, "a.tif is not a folder); name another folder"),
        (
            ["run", "IN", "--output", "/dev/null/x/y"],
            2,
            "(/dev/null is not a folder); name another",
        ),
        (["run", "IN", "--output", "/proc/x"], 2, "No such file or directory); name another"),
        (["run", "IN", "--output", "OUT", "--shards", "1/2", "--output", "/proc/x"], 2, "/proc/x"),
        (["plan", "IN", "--sample", "1", "--sample-to", "/dev/null/x"], 2, "/dev/null/x: cannot"),
        (["run", "IN", "--output", "foo://x"], 2, "foo"),
        (["run", "foo://x", "--output", "OUT"], 2, "foo"),
        (["run", "IN", "--output", "OUT", "--scale", "nan"], 2, "must be a finite number"),
        (["run", "IN", "--output", "OUT", "--address", "127.0.0.1:9"], 2, "no Ray cluster answers"),
        (["run", "IN", "--output", "OUT", "--window", "20000"], 2, "smaller --window"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(
    small_checkpoint: str, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    write_scene(tmp_path / "IN" / "a.tif", 60, 50)
    words = [*arguments, "--checkpoint", small_checkpoint]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert_one_error_line(done.stderr)
    assert message in done.stderr
    assert not (tmp_path / "OUT").exists()

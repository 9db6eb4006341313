"""The command line: arguments in, exit codes out, results on stdout, all else on stderr."""

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

Finished = tuple[Path, subprocess.CompletedProcess[str]]
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


@pytest.fixture(scope="module")
def finished(archive: Path) -> Finished:
    """The output of a run on the archive, and the process of that run."""
    out = archive / "out"
    command = [sys.executable, "-m", "jobs.cli", "run", *map(str, arguments(archive))]
    done = subprocess.run(
        [*command, "--output", str(out)], capture_output=True, text=True, check=False
    )
    return out, done


def test_plan_counts_inputs_and_names_those_that_would_be_quarantined(
    swath: Swath, archive: Path
) -> None:
    code, stdout, stderr = swath("plan", *arguments(archive), "--format", "json")
    assert code == 0, stderr
    estimate = json.loads(stdout)
    assert (estimate["inputs"], estimate["scenes"], len(estimate["failures"])) == (2, 1, 1)
    assert estimate["earlier"] is None
    code, stdout, _ = swath("plan", *arguments(archive))
    assert code == 0
    assert "\nwould be quarantined: " in stdout
    assert stdout.count("text.tif") == 1
    assert "see quarantine" not in stdout  # nothing is written
    assert "there is no output yet" not in stdout


def test_plan_on_an_output_that_does_not_exist_counts_everything_and_writes_nothing(
    swath: Swath, archive: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, stdout, _ = swath("plan", *arguments(archive), "--output", out)
    assert (code, f"note: {out}: there is no output yet, so all is counted" in stdout) == (0, True)
    assert not out.exists()


def test_run_reports_its_progress_its_receipt_and_how_to_read_the_quarantine(
    finished: Finished,
) -> None:
    out, done = finished
    assert done.returncode == 3, done.stderr
    assert "note: 1 of 2 inputs cannot be used: see quarantine; the first: " in done.stderr
    assert "scenes      2 planned: 1 done, 1 quarantined" in done.stdout
    assert "quarantine  1 row" in done.stdout
    assert "Mpx" in done.stderr  # progress
    assert f'swath query {out} "SELECT * FROM quarantine"' in done.stderr


def test_status_of_a_finished_output_counts_its_scenes(swath: Swath, finished: Finished) -> None:
    out, _ = finished
    code, stdout, _ = swath("status", out, "--format", "json")
    report = json.loads(stdout)
    assert (code, report["finished"], report["quarantined"]) == (0, True, 1)
    code, stdout, _ = swath("status", out)
    assert (code, "finished" in stdout) == (0, True)
    assert "scenes       2 of 2 published" in stdout


def test_plan_on_a_finished_output_has_nothing_left_to_segment(
    swath: Swath, archive: Path, finished: Finished
) -> None:
    out, _ = finished
    code, stdout, _ = swath("plan", *arguments(archive), "--output", out)
    assert code == 0
    assert "scenes       0 to segment\n" in stdout
    assert "done         0.012 Mpx by earlier runs" in stdout
    assert "quarantined  0.0 Mpx, 1 scene by earlier runs" in stdout


def test_query_prints_rows_as_json_csv_and_a_table(swath: Swath, finished: Finished) -> None:
    out, _ = finished
    sql = "SELECT scene_id, status FROM scenes ORDER BY 1"
    code, stdout, stderr = swath("query", out, sql, "--format", "json")
    assert (code, stderr) == (0, "")
    assert json.loads(stdout) == [
        {"scene_id": "good.tif", "status": "done"},
        {"scene_id": "text.tif", "status": "quarantined"},
    ]
    code, stdout, _ = swath("query", out, "SELECT 1 AS a, 'x,y' AS b", "--format", "csv")
    assert (code, stdout) == (0, 'a,b\n1,"x,y"\n')
    code, stdout, _ = swath("query", out, "SELECT 1 AS a")
    assert code == 0
    assert stdout.split() == ["a", "─", "1", "(1", "row)"]


def test_a_run_with_other_settings_on_an_output_is_refused(
    swath: Swath, archive: Path, finished: Finished
) -> None:
    out, _ = finished
    code, _, stderr = swath("run", *arguments(archive), "--output", out, "--window", 128)
    assert code == 2
    assert "window" in stderr


@pytest.mark.parametrize(
    ("words", "message"),
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
def test_a_wrong_argument_ends_with_exit_code_2_and_one_line(
    swath: Swath, words: list[str], message: str
) -> None:
    code, stdout, stderr = swath("run", *words)
    assert (code, stdout) == (2, "")
    assert_one_error_line(stderr)
    assert message in stderr


@pytest.mark.parametrize("command", ["status", "query"])
def test_a_folder_without_job_json_is_refused_with_exit_code_2(
    swath: Swath, tmp_path: Path, command: str
) -> None:
    sql = ["SELECT 1"] if command == "query" else []
    code, stdout, stderr = swath(command, tmp_path / "missing", *sql)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert "missing" in stderr


def test_options_of_plan_become_settings_and_execution_and_nodata_may_be_nan(
    monkeypatch: pytest.MonkeyPatch, swath: Swath
) -> None:
    calls: list[Any] = []

    def record_call(*arguments: Any) -> Estimate:
        calls.append(arguments)
        return estimate()

    monkeypatch.setattr(pipeline.api, "plan_request", record_call)
    options = "--bands 4,3,2 --nodata nan --scale 1e-4 --offset -0.1 --block 1024 --replicas 2"
    code, _, stderr = swath("plan", "a", "b", "--checkpoint", "c", *options.split())
    assert (code, stderr) == (0, READING)
    ((request, output, _),) = calls
    settings, execution = request.settings, request.execution
    assert (request.inputs, request.checkpoint, output) == (("a", "b"), "c", None)
    assert (settings.bands, settings.scale, settings.offset) == ((4, 3, 2), 1e-4, -0.1)
    assert np.isnan(settings.nodata)
    assert (execution.block, execution.replicas, execution.runner) == (1024, 2, "auto")


def test_an_interrupted_run_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, swath: Swath
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.api, "run_request", interrupt)
    code, stdout, stderr = swath("run", "a b", "--checkpoint", "c", "--output", "o")
    assert (code, stdout) == (1, "")
    assert "run the same command again: swath run 'a b' --checkpoint c --output o" in stderr
    assert "Traceback" not in stderr


def python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
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
    ("command", "options", "loaded"),
    [
        ("plan", "", []),
        ("plan", "--sample 1 --sample-to {folder}", ["torch", "numba"]),
        ("run", "--output {folder}", []),
        ("run", "--runner local --output {folder}", ["torch", "numba"]),
    ],
)
def test_plans_and_small_runs_load_only_what_they_need(
    archive: Path, tmp_path: Path, command: str, options: str, loaded: list[str]
) -> None:
    """The plan of a run on Ray does not load it: before the run, only joining a cluster does."""
    folder = tmp_path / "folder"
    words = [str(archive / "images"), "--checkpoint", str(archive / "checkpoint")]
    words += ["--window", "64", "--stride", "48", "--batch", "2"]
    words += options.format(folder=folder).split()
    assert f"LOADED {loaded}" in python(LOADED, "torch,numba,ray", command, *words)
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


def test_a_closed_pipe_ends_a_command_without_a_word() -> None:
    """The reader closes the pipe after one byte, as `head` does after ten lines."""
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_query_writes_parquet_to_stdout(archive: Path) -> None:
    main_module = [sys.executable, "-m", "jobs.cli"]
    out = archive / "piped"
    command = [*main_module, "run", *map(str, arguments(archive)), "--output", str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
    query = [*main_module, "query", str(out), "FROM classes", "--format", "parquet"]
    result = subprocess.run(query, capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(result.stdout)).num_rows == 2
    assert result.stderr == b""


def test_a_query_loads_neither_torch_nor_ray(finished: Finished) -> None:
    out, _ = finished
    printed = python(LOADED, "torch,ray", "query", str(out), "FROM classes", "--format", "csv")
    assert printed.splitlines()[0] == "class_id,name,color"
    assert "LOADED []" in printed


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
def test_an_input_or_output_that_cannot_be_used_is_refused_in_one_line(
    swath: Swath,
    small_checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    write_scene(tmp_path / "IN" / "a.tif", 60, 50)
    monkeypatch.chdir(tmp_path)
    ended, _, stderr = swath(*arguments, "--checkpoint", small_checkpoint)
    assert ended == code, stderr
    assert_one_error_line(stderr)
    assert message in stderr
    assert not (tmp_path / "OUT").exists()

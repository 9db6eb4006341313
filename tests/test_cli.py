"""The edge: arguments in, exit codes out, results on stdout and all else on stderr."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from archives import write_scene
from checkpoints import random_checkpoint, saved
from rasterio.transform import Affine

import pipeline.job
from jobs import plan, run, status, text
from jobs.cli import main
from jobs.progress import ProgressLine, render
from jobs.query import write_csv, write_json, write_table
from pipeline.forecast import Rate
from pipeline.receipt import Estimate, Failure, Progress, Receipt, Status
from segformer import ModelConfig

Cli = Callable[..., tuple[int, str, str]]
READING = "reading the checkpoint and the headers of the inputs ...\n"
"""What plan and run say at once."""
HEAVY = ("torch", "ray", "rasterio", "pyarrow", "duckdb", "rich")


@pytest.fixture
def swath(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process: exit code, stdout, stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, captured.out, captured.err

    return command


def assert_one_complaint(stderr: str) -> None:
    """In one line, the last."""
    line = stderr.removeprefix(READING)
    assert line.startswith("swath: error: ")
    assert line.count("\n") == 1


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
    saved(random_checkpoint(config, seed=0), root / "checkpoint")
    return root


def arguments(archive: Path) -> list[object]:
    window = ["--window", 64, "--stride", 48, "--batch", 2, "--runner", "local"]
    return [archive / "images", "--checkpoint", archive / "checkpoint", *window]


def test_plan_run_status_query_in_turn(swath: Cli, archive: Path) -> None:
    given, out = arguments(archive), archive / "out"

    code, stdout, stderr = swath("plan", *given, "--format", "json")
    assert code == 0, stderr
    estimate = json.loads(stdout)
    assert (estimate["scenes"], len(estimate["rejected"])) == (1, 1)
    code, stdout, _ = swath("plan", *given)
    assert code == 0
    assert "rejected: " in stdout
    assert stdout.count("text.tif") == 1
    assert "quarantine" not in stdout  # nothing is written
    assert not out.exists()

    code, stdout, stderr = swath("run", *given, "--output", out)
    assert code == 3, stderr
    assert "note: 1 of 2 inputs cannot be used: see quarantine; the first: " in stderr
    assert "quarantine  1 row" in stdout
    assert "Mpx" in stderr  # progress
    assert f'swath query {out} "SELECT * FROM quarantine"' in stderr

    code, stdout, _ = swath("status", out, "--format", "json")
    report = json.loads(stdout)
    assert (code, report["finished"], report["quarantined"]) == (0, True, 1)
    code, stdout, _ = swath("status", out)
    assert (code, "finished" in stdout) == (0, True)

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
def test_wrong_arguments_end_with_2_and_one_line(swath: Cli, given: list[str], says: str) -> None:
    code, stdout, stderr = swath("run", *given)
    assert (code, stdout) == (2, "")
    assert_one_complaint(stderr)
    assert says in stderr


@pytest.mark.parametrize("command", ["status", "query"])
def test_what_is_no_output_ends_with_2(swath: Cli, tmp_path: Path, command: str) -> None:
    more = ["SELECT 1"] if command == "query" else []
    code, stdout, stderr = swath(command, tmp_path / "missing", *more)
    assert (code, stdout) == (2, "")
    assert stderr.count("\n") == 1
    assert "missing" in stderr


def test_nan_is_a_nodata_value(monkeypatch: pytest.MonkeyPatch, swath: Cli) -> None:
    seen: list[Any] = []

    def planned(*given: Any) -> Estimate:
        seen.append(given)
        return estimate()

    monkeypatch.setattr(pipeline.job, "plan", planned)
    options = "--bands 4,3,2 --nodata nan --scale 1e-4 --offset -0.1 --block 1024 --replicas 2"
    code, _, stderr = swath("plan", "a", "b", "--checkpoint", "c", *options.split())
    assert (code, stderr) == (0, READING)
    ((inputs, checkpoint, settings, execution, output, _, _),) = seen
    assert (inputs, checkpoint, output) == (("a", "b"), "c", None)
    assert (settings.bands, settings.scale, settings.offset) == ((4, 3, 2), 1e-4, -0.1)
    assert np.isnan(settings.nodata)
    assert (execution.block, execution.replicas, execution.runner) == (1024, 2, "ray")


def test_an_interrupted_run_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, swath: Cli) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.job, "run", interrupted)
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


VALUES = pa.table(
    {
        "f": [1.5, float("nan")],
        "b": [b"\x00\xff", None],
        "t": pa.array([0, None], pa.timestamp("us", "UTC")),
        "s": [{"x": [1, 2]}, None],
        "d": pa.array([None, 12], pa.decimal128(38, 0)),
    }
)


def test_json_values(capsys: pytest.CaptureFixture[str]) -> None:
    write_json(VALUES)
    assert json.loads(capsys.readouterr().out) == [
        {"f": 1.5, "b": "00ff", "t": "1970-01-01T00:00:00+00:00", "s": {"x": [1, 2]}, "d": None},
        {"f": None, "b": None, "t": None, "s": None, "d": 12},
    ]
    write_json(VALUES.slice(0, 0))
    assert json.loads(capsys.readouterr().out) == []


def test_csv_values(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(VALUES)
    assert capsys.readouterr().out == (
        "f,b,t,s,d\n"
        '1.5,00ff,1970-01-01T00:00:00+00:00,"{""x"": [1, 2]}",\n'
        "nan,,,,12\n"
    )  # fmt: skip


def test_a_table_for_people_is_cut_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(pa.table({"n": range(51), "text": ["[bold]" + "x" * 999] * 51, "b": [b"12"] * 51}))
    out = capsys.readouterr().out
    assert "(51 rows, the first 50 shown; --format csv or json prints all)" in out
    assert "[bold]" + "x" * 293 + "…" in out
    assert "<2 B>" in out
    assert max(len(line) for line in out.splitlines()) < 330


def test_parquet_goes_to_stdout(archive: Path) -> None:
    main_module = [sys.executable, "-m", "jobs.cli"]
    out = archive / "piped"
    command = [*main_module, "run", *map(str, arguments(archive)), "--output", str(out)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
    ask = [*main_module, "query", str(out), "FROM classes", "--format", "parquet"]
    result = subprocess.run(ask, capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(result.stdout)).num_rows == 2
    assert result.stderr == b""


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def progress(done: int, elapsed_s: float) -> Progress:
    return Progress(done * 10**6, 100 * 10**6, done * 10**6, elapsed_s, done, 100)


@pytest.mark.parametrize(("terminal", "shown"), [(True, 31), (False, 5)])
def test_progress_is_one_live_line_or_one_now_and_then(terminal: bool, shown: int) -> None:
    screen, now = Screen(terminal), [0.0]
    with ProgressLine(screen, "starting Ray ...", clock=lambda: now[0]) as line:
        for second in range(31):
            now[0] = float(second)
            line(progress(second, second))
        line(progress(31, 31.0))
    written = screen.getvalue()
    assert written.endswith("\n")
    if terminal:
        assert written.count("\n") == 1
        assert written.count("\r") == shown + 1
    else:
        assert "\r" not in written
        assert written.count("\n") == shown
    assert written.count("starting Ray ...") == 1
    assert "31.0 Mpx of 100.0 Mpx, 31%, 1.0 Mpx/s, 1 min 9 s left" in written.splitlines()[-1]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_start_is_told_once(terminal: bool) -> None:
    screen, now = Screen(terminal), [0.0]
    with ProgressLine(screen, "starting Ray ...", clock=lambda: now[0]) as line:
        for second in range(100):
            now[0] = float(second)
            line(progress(0, 0.0))
        line(progress(2, 1.0))  # the rate does not know of the start
    lines = screen.getvalue().replace("\r\x1b[K", "\n").strip().splitlines()
    assert lines == ["starting Ray ...", "2 Mpx of 100.0 Mpx, 2%, 2.0 Mpx/s, 49 s left"]


@pytest.mark.parametrize(
    ("rate", "says"),
    [(0, "0"), (0.00123, "0.0012"), (0.25, "0.25"), (1.04, "1.0"), (12.3, "12"), (1234, "1,234")],
)
def test_rates(rate: float, says: str) -> None:
    assert text.rate(rate) == f"{says} Mpx/s"


def test_describing_is_shown_once_it_takes_long() -> None:
    screen, now = Screen(terminal=False), [0.0]
    with ProgressLine(screen, clock=lambda: now[0]) as line:
        for done in range(1, 2001):
            now[0] = done / 100
            line.described(done, 2000)
    assert screen.getvalue() == "described 101 of 2,000 headers\ndescribed 1,101 of 2,000 headers\n"


def test_a_small_job_describes_in_silence() -> None:
    screen = Screen(terminal=True)
    with ProgressLine(screen, clock=lambda: 0.0) as line:
        line.described(1, 1)
    assert screen.getvalue() == ""


def test_progress_says_when_it_does_not_know() -> None:
    assert render(progress(0, 0.0)).endswith("time left unknown")
    with ProgressLine(Screen(terminal=True)) as line:
        pass
    assert line is not None


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3600, "1 h 0 min"),
     (86400 * 3, "3 d 0 h")],
)  # fmt: skip
def test_durations(seconds: float, says: str) -> None:
    assert text.duration(seconds) == says


@pytest.mark.parametrize(
    ("number", "says"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1.234e9, "1.23 GB")]
)
def test_sizes(number: float, says: str) -> None:
    assert text.size(number) == says


def estimate() -> Estimate:
    failure = Failure("b", "b.tif", "describe", None, "InputError", "not an image")
    return Estimate(
        inputs=3, scenes=2, rejected=(failure,), units=4, windows=100, windows_computed=125,
        megapixels=12.34, km2=None, read_bytes=10**9, memory_bytes=2 * 10**9, hours=0.5,
        rate=Rate(0.02), replicas=3, device="cpu", batch=4, notes=("small scenes",),
        memory={"total": 9 * 10**9},
    )  # fmt: skip


def test_the_estimate_reads_well() -> None:
    lines = plan.render(estimate()).splitlines()
    assert "windows   100 (computed: 125, x1.25)" in lines
    assert "time      30 min 0 s with 3 replicas on cpu, without start-up" in lines
    assert "rate      0.020 s per window and replica, nominal; --calibrate measures it" in lines
    assert "area      unknown: no CRS" in lines
    assert "note: small scenes" in lines
    assert "rejected: b.tif: not an image (describe, InputError)" in lines


def test_the_receipt_reads_well() -> None:
    receipt = Receipt(
        started="2026-01-01T00:00:00Z", seconds=65, startup_s=4, ended="done",
        output="OUT", runner="local", device="cpu", replicas=1, units=4, units_computed=1,
        scenes_planned=4, scenes_done=2, scenes_partial=1, scenes_quarantined=1,
        failures=estimate().rejected, megapixels=12.0,
        megapixels_per_s=0.25, windows=100, windows_computed=125, read_s=1, segment_s=60,
        finish_s=2, publish_s=1, retries=3, bounded_by="segment", pixels_without_area=7,
        notes=("a note",),
        relief="more GPUs", megapixels_per_s_steady=0.28, busy=0.984, gpu_utilisation=0.8,
        gpu_memory_bytes=3 * 10**9, driver_s=0, km2=1234.5, cost=7.5, cost_per_1000_km2=6.075,
    )  # fmt: skip
    out = run.render(receipt)
    assert "100 of the grid, 125 computed" in out
    assert "4 planned: 2 done, 1 partial, 1 quarantined" in out
    assert "1 computed, 3 done by earlier runs" in out
    assert "0.25 Mpx/s per replica, without start-up 0.28 Mpx/s" in out
    assert "bound by    segment; faster with more GPUs" in out
    assert "1 replica on cpu, runner local, busy 98% of the time after start-up," in out
    assert "GPU utilisation 80%, 3 GB of GPU memory" in out
    assert "area        1,234.5 km2" in out
    assert "cost        7.50, 6.08 per 1,000 km2" in out
    assert "1 min 5 s, of which start-up 4.0 s" in out
    assert "read 1.0 s, segment 1 min 0 s, finish 2.0 s, publish 1.0 s, summed" in out
    assert "7 px outside their CRS's domain" in out


def test_the_status_reads_well() -> None:
    report = Status(
        output="OUT", units=40, units_done=10, shards=2, shards_published=0, scenes=3,
        scenes_published=0, quarantined=1, quarantined_waiting=2, megapixels=1000.0,
        megapixels_done=249.0, megapixels_quarantined=1.0, megapixels_open=750.0, finished=False,
        settings={
            "settings": {"window": 512, "batch": None, "bands": [4, 3, 2]},
            "checkpoint": "C", "device": "cpu",
        },
        runs=(), runs_without_receipt=0,
    )  # fmt: skip
    lines = status.render(report).splitlines()
    assert "state        unfinished: the same `swath run` goes on" in lines
    assert "done         249.0 Mpx, 25%" in lines
    assert "open         750.0 Mpx, 75%, 30 units" in lines
    assert "quarantined  1 Mpx, 1%, 1 row, 2 more to come" in lines
    assert "units        10 of 40 have an outcome" in lines
    assert "inputs       0 of 3 published" in lines
    assert "settings     window 512, bands 4,3,2" in lines
    assert lines[-1] == "runs         0"
    killed = status.render(replace(report, runs_without_receipt=1)).splitlines()
    assert killed[-1] == "runs         1, 1 at work or killed, without a receipt"


def test_the_status_tells_the_last_runs() -> None:
    receipt = {
        "started": "2026-01-01T00:00:00+00:00", "megapixels": 12.0, "seconds": 65.0,
        "megapixels_per_s": 0.25, "bounded_by": "segment", "cost": None,
    }  # fmt: skip
    says = "2026-01-01T00:00:00+00:00: 12.0 Mpx in 1 min 5 s, 0.25 Mpx/s per replica, bound by"
    assert status._run(receipt) == f"{says} segment"
    paid = receipt | {"cost": 7.5, "cost_per_1000_km2": None}
    assert status._run(paid) == f"{says} segment, cost 7.50"
    stopped = receipt | {"ended": "stopped by hand"}
    assert status._run(stopped) == f"{says} segment, ended early: stopped by hand"


def test_runs_that_ended_early_are_counted() -> None:
    done, stopped = {"ended": "done"}, {"ended": "stopped by hand"}
    assert status._count([done, done], 0) == "2:"
    assert status._count([stopped, done], 0) == "2, 1 of them ended early:"
    assert status._count([*[done] * 5, stopped], 0) == "6, 1 of them ended early, the last 5:"
    assert status._count([done], 2) == "3, 2 at work or killed, without a receipt:"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "IN", "--output", ""], 2, "an empty path"),
        (["run", "", "--output", "OUT"], 2, "an empty path"),
        (["run", "IN", "--output", "IN/a.tif"], 2, "is a file; name a folder"),
        (["run", "IN", "--output", "IN/a.tif/x"], 1, "Not a directory"),
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
    assert_one_complaint(done.stderr)
    assert message in done.stderr
    assert not (tmp_path / "OUT").exists()


def test_small_costs_are_more_than_nothing() -> None:
    assert text.cost(1234.5, 0.0123) == "1,234.50, 0.01 per 1,000 km2"
    assert text.cost(0.00234, 0.0000411) == "0.0023, 0.000041 per 1,000 km2"
    assert text.cost(0.0, None) == "0.00"

"""A job as a file: its values apply, the command line takes precedence, mistakes name a line."""

from __future__ import annotations

import codecs
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from jobs import options
from jobs.cli import main
from jobs.job_file_option import job_opt
from jobs.run import run as run_command
from pipeline.api import run
from pipeline.errors import UsageError
from pipeline.job_file import JobFile
from pipeline.job_writer import job_file_text
from pipeline.settings import Execution, Settings
from pipeline.share import Share
from pipeline.storage.access import DEFAULT_ACCESS, Access
from tests.support import s3_server
from tests.support.archives import write_scene
from tests.support.commands import assert_one_error_line, exit_code_of
from tests.support.outputs import differences, files

FULL = Settings(
    96,
    64,
    "bfloat16",
    2,
    (3, 2, 1),
    "data",
    0.5,
    -0.25,
    float("nan"),
    rescale=1.0,
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    weights="ema",
)
EXECUTION = Execution(
    block=1024,
    replicas=(2, 8),
    runner="ray",
    address="ray://head:10001",
    unit_timeout=60.0,
    max_quarantined=7,
    retry_quarantined=True,
    shards=Share(2, 3),
    max_hours=1.5,
    price_per_hour=2.5,
    access=Access((("endpoint_url", "https://here"), ("nested", {"a": [1, "b"]}))),
)
JOB = """# a comment
inputs = [
    "images",   # checkpoint = "not here"
    "/abs/*.tif",
]
checkpoint = "model"

output = "tables"
window = 64
"bands" = [3, 2, 1]
[storage-options]
anon = true
"""


def parse(*arguments: str) -> dict[str, object]:
    """The parameters that a command with the arguments and options of `run` receives."""
    received: dict[str, object] = {}

    def keep(**parameters: object) -> None:
        received.update(parameters)

    command = click.Command("keep", params=run_command.params, callback=keep)
    done = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    if done.exception:
        raise done.exception
    return received


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


def test_a_job_file_replaces_arguments_and_options(job: Path) -> None:
    parameters = parse("--job", str(job))
    folder = job.parent
    assert parameters["inputs"] == (f"{folder}/images", "/abs/*.tif")
    assert (parameters["checkpoint"], parameters["output"]) == (
        f"{folder}/model",
        f"{folder}/tables",
    )
    assert (parameters["window"], parameters["stride"], parameters["bands"]) == (64, 384, (3, 2, 1))
    assert parameters["storage_options"] == '{"anon": true}'


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_job_file_may_be_saved_on_windows(job: Path, mark: bytes, end: str) -> None:
    expected = parse("--job", str(job))
    job.write_bytes(mark + JOB.replace("\n", end).encode())
    assert parse("--job", str(job)) == expected
    job.write_bytes(mark + JOB.replace("\n", end).replace("64", "'x'").encode())
    with pytest.raises(UsageError, match="line 9: window must be a whole number"):
        JobFile.read(str(job), DEFAULT_ACCESS)


@pytest.mark.parametrize(
    ("encoding", "remedy"),
    [
        ("utf-16", "UTF-16, as PowerShell's > writes; save it as UTF-8"),
        ("utf-16-le", "UTF-16, as PowerShell's > writes; save it as UTF-8"),
        ("utf-16-be", "UTF-16, as PowerShell's > writes; save it as UTF-8"),
        ("utf-32", "UTF-16, as PowerShell's > writes; save it as UTF-8"),
        ("latin-1", "not a text file in UTF-8; save it as UTF-8"),
    ],
)
def test_a_job_file_in_another_encoding_is_refused_with_the_remedy(
    job: Path, encoding: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_bytes(JOB.replace("a comment", "für alle").encode(encoding))
    assert exit_code_of("run", "--job", job) == 2
    stderr = capsys.readouterr().err
    assert_one_error_line(stderr)
    assert f"--job {job}: " in stderr
    assert remedy in stderr


def test_the_command_line_takes_precedence_over_the_job_file(job: Path) -> None:
    parameters = parse("one", "two", "--window", "128", "--job", str(job), "--output", "o")
    assert parameters["inputs"] == ("one", "two")
    assert (parameters["window"], parameters["output"], parameters["bands"]) == (
        128,
        "o",
        (3, 2, 1),
    )


def test_every_option_of_run_has_its_key_and_survives_a_round_trip(tmp_path: Path) -> None:
    text = job_file_text(["/in", "s3://b/in"], "/model", "/out", FULL, EXECUTION, "ray")
    values = tomllib.loads(text)
    names = [option.opts[0].removeprefix("--") for option in run_command.params[1:]]
    assert set(values) == {"inputs", *names} - {"job"}
    for option in ("storage-options", "job"):
        assert option in names
    (tmp_path / "job.toml").write_text(text)

    @click.command()
    @job_opt
    @options.settings_options
    @options.execution_options
    def check(**parameters: object) -> None:
        settings, execution = options.parse(parameters)
        assert repr(settings) == repr(FULL)  # nan is not nan
        assert execution == EXECUTION

    check.main(["--job", str(tmp_path / "job.toml")], standalone_mode=False)


def test_options_without_a_value_are_omitted_from_the_job_file() -> None:
    text = job_file_text(["in"], "model", "out", Settings(batch=1), Execution(), "local")
    values = tomllib.loads(text)
    assert (
        not {"block", "replicas", "address", "shards", "bands", "storage-options"} & values.keys()
    )
    assert values["inputs"] == [str(Path("in").absolute())]


@pytest.mark.parametrize(
    ("line", "replacement", "message"),
    [
        ("window = 64", "windw = 64", "line 9: unknown key windw; did you mean window?"),
        ("window = 64", "unit_timeout = 6", "line 9: unknown key unit_timeout; did you mean unit-"),
        ("window = 64", "xyzzy = 6", "line 9: unknown key xyzzy; known are inputs, checkpoint"),
        ("[storage-options]", "[execution]", "line 11: unknown key execution"),
        ("window = 64", "window = 'ten'", "line 9: window must be a whole number"),
        ("window = 64", "window = true", "line 9: window must be a whole number"),
        ("window = 64", "scale = '1'", "line 9: scale must be a number"),
        ("window = 64", "retry-quarantined = 1", "line 9: retry-quarantined must be true or false"),
        ('"bands" = [3, 2, 1]', "bands = [1.5]", "line 10: bands must be a list of whole numbers"),
        ('    "images"', "    7", "line 2: inputs must be a list of texts"),
        (
            '"bands" = [3, 2, 1]',
            "bands = []",
            "line 10: bands must be a list of whole numbers, one or",
        ),
        (
            "anon = true",
            "[storage-options.a]\nb = 1\ntoken = 1",
            "line 14: --storage-options: 'token'",
        ),
        ("[storage-options]\nanon = true", "storage-options = 1", "line 11: storage-options must"),
        ("window = 64", "window 64", r"line 9: not TOML: .* \(column 8\)"),
        ("anon = true", "anon = '''", "line 12: not TOML: .*; is a quote or a bracket left open"),
        ("anon = true", "anon =", r"line 12: not TOML: [^?]*$"),
        ("window = 64", "dtype = 'float32", "line 12: not TOML: .*; is a quote or a bracket left"),
        ("window = 64", 'dtype = "float32', "line 9: not TOML: .*; is a quote or a bracket left"),
        ("window = 64", "window = 10", "line 9: --window 10: the network needs at least 32 px"),
        ("window = 64", "replicas = '8:2'", "line 9: --replicas 8:2: must be"),
        ("window = 64", "replicas = 'some'", "line 9: Invalid value for '--replicas': 'some' is"),
        ("window = 64", "shards = '5/4'", "line 9: Invalid value for '--shards': I counts from 1"),
        ("window = 64", "shards = '1 of 4'", "line 9: Invalid value for '--shards': write I/N"),
        ("window = 64", "dtype = 'int8'", "line 9: Invalid value for '--dtype': 'int8' is not"),
        ("window = 64", "replicas = 2\nrunner = 'local'", "line 10: --runner local is one replica"),
        ("window = 64", "max-hours = 0", "line 9: --max-hours 0: must be more than 0"),
        ("anon = true", "endpoint_url = 'localhost:9000'", "line 12: .* write it with http:// or"),
        ("anon = true", "secret = 'x'", "line 12: --storage-options: 'secret' looks like"),
        ('checkpoint = "model"', "", "toml: checkpoint is missing; add it, or give it on the"),
    ],
)
def test_a_mistake_in_the_job_file_names_its_line(
    job: Path, capsys: pytest.CaptureFixture[str], line: str, replacement: str, message: str
) -> None:
    assert line in JOB
    job.write_text(JOB.replace(line, replacement))
    with pytest.raises(SystemExit) as end:
        main(["run", "--job", str(job)])
    assert end.value.code == 2
    stderr = capsys.readouterr().err
    assert_one_error_line(stderr)
    assert re.search(rf"{re.escape(str(job))}[,:] {message.removeprefix('toml: ')}", stderr), stderr


def test_a_mistake_on_the_command_line_names_no_line(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--job", str(job), "--window", "10"])
    assert capsys.readouterr().err.startswith("swath: error: --window 10: the network")


def test_a_value_that_contradicts_the_command_line_names_its_line(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job.write_text(JOB.replace("window = 64", "replicas = 2"))
    with pytest.raises(SystemExit) as end:
        main(["run", "--job", str(job), "--runner", "local"])
    assert end.value.code == 2
    assert f"{job}, line 9: --runner local is one replica" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.toml", "/gone.toml: no such file"),
        (".", ": Is a directory"),
        ("s3://", "s3://: no bucket can have this name"),
    ],
)
def test_a_job_file_that_cannot_be_read_is_refused_in_one_line(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = name if "://" in name else str(tmp_path / name)
    with pytest.raises(SystemExit) as end:
        main(["plan", "--job", path])
    assert end.value.code == 2
    stderr = capsys.readouterr().err
    assert_one_error_line(stderr)
    assert message in stderr


def test_credentials_are_refused_before_they_are_recorded() -> None:
    for option in (("secret", "x"), ("endpoint_url", "https://me:word@host")):
        with pytest.raises(UsageError, match="credential"):
            Access((option,))


def test_a_run_writes_a_job_file_that_repeats_it(small_checkpoint: str, tmp_path: Path) -> None:
    folder, out, again = tmp_path / "in", tmp_path / "out", tmp_path / "again"
    for name in "ab":
        write_scene(folder / f"{name}.tif", 300, 200, seed=ord(name))
    words = [str(folder / "a.tif"), "--checkpoint", small_checkpoint, "--output", str(out)]
    words += ["--window", "64", "--stride", "48", "--nodata", "nan", "--runner", "local"]
    assert exit_code_of("run", *words) == 0
    first = (out / "job.toml").read_text()
    assert tomllib.loads(first)["batch"] == 1  # settled by the run
    assert exit_code_of("run", "--job", str(out / "job.toml"), "--output", str(again)) == 0
    assert differences(out, again) == []

    # After another run job.toml is that of the latest run, and the files of both runs are kept.
    assert exit_code_of("run", *words, str(folder / "b.tif"), "--block", "512") == 0
    latest = (out / "job.toml").read_text()
    assert tomllib.loads(latest)["block"] == 512
    run_files = sorted((out / "runs").glob("*.toml"))
    assert [path.read_text() for path in run_files] == [first, latest]
    assert [path.with_suffix(".json").exists() for path in run_files] == [True, True]
    assert exit_code_of("status", str(out)) == 0


@pytest.mark.s3
def test_a_job_file_may_be_in_an_object_store(
    s3: s3_server.Server, s3_folder: str, small_checkpoint: str, tmp_path: Path
) -> None:
    assert s3.url
    write_scene(tmp_path / "a.tif", 300, 200)
    s3_server.client().put_file(str(tmp_path / "a.tif"), f"{s3_folder}/images/a.tif")
    text = f'inputs = ["images"]\noutput = "tables"\ncheckpoint = "{small_checkpoint}"\n'
    text += 'window = 64\nstride = 48\nrunner = "local"\n'
    s3_server.client().pipe_file(f"{s3_folder}/job.toml", text.encode())
    assert exit_code_of("run", "--job", f"{s3_folder}/job.toml") == 0
    url = f"{s3_folder}/tables/job.toml"
    job_file = JobFile.read(url, DEFAULT_ACCESS)
    assert job_file.values["inputs"] == [f"{s3_folder}/images"]
    assert exit_code_of("run", "--job", url, "--output", str(tmp_path / "again")) == 0
    assert differences(f"{s3_folder}/tables", tmp_path / "again") == []
    assert "job.toml" in files(f"{s3_folder}/tables")


def test_a_run_from_python_writes_a_job_file_as_well(small_checkpoint: str, tmp_path: Path) -> None:
    write_scene(tmp_path / "a.tif", 60, 50)
    settings, local = Settings(64, 48), Execution(runner="local")
    run([str(tmp_path / "a.tif")], small_checkpoint, str(tmp_path / "out"), settings, local)
    values = JobFile.read(str(tmp_path / "out" / "job.toml"), DEFAULT_ACCESS).values
    known = {
        field.name for options_class in (Settings, Execution) for field in fields(options_class)
    }
    assert {key.replace("-", "_") for key in values} - {"inputs", "checkpoint", "output"} <= known


def test_storage_options_that_s3_does_not_have_are_refused() -> None:
    mistaken = Access.parse('{"endpont_url": "http://127.0.0.1:1", "anon": true}')
    assert mistaken.fsspec("/data") == {}
    for use in (mistaken.fsspec, mistaken.filesystem):
        with pytest.raises(UsageError, match="'endpont_url'; did you mean endpoint_url"):
            use("s3://bucket/a")
    known = Access.parse('{"endpoint_url": "http://127.0.0.1:1", "anon": true, "profile": "x"}')
    assert known.fsspec("s3://bucket/a")["profile"] == "x"

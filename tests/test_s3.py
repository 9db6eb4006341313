"""Runs on a real S3 server: the rows of the run on disk, clear refusals, and no secret anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.api import plan, run
from pipeline.errors import UsageError
from pipeline.imagery.source import find_inputs
from pipeline.output.query import query
from pipeline.output.status import status
from pipeline.progress import Progress
from pipeline.receipt import Receipt
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS, Access
from tests.support import s3_server
from tests.support.archives import picture, write_scene
from tests.support.outputs import differences, rows, stray_files

pytestmark = pytest.mark.s3

SETTINGS = Settings(window=128, stride=96, batch=2)
LOCAL = Execution(runner="local", block=512)
READING = "reading the checkpoint and the headers of the inputs ...\n"
"""The first line that plan and run print."""
WITH_URL = {"scenes.url", "quarantine.url", "quarantine.message"}
"""The columns that contain the location of an input."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of several blocks, strips, a sidecar mask, a PNG with a world file, awkward names,
    and a file that is not an image."""
    folder = tmp_path_factory.mktemp("archive")
    write_scene(folder / "large.tif", 900, 700, seed=1)
    write_scene(folder / "strips.tif", 300, 400, seed=2, tiled=False)
    masked = write_scene(folder / "sub" / "masked.tif", 200, 150, seed=3)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(masked, "r+") as file:
        file.write_mask(np.arange(150)[:, None] + np.zeros((1, 200)) > 60)
    assert masked.with_suffix(".tif.msk").exists()
    Image.fromarray(np.moveaxis(picture(160, 140, seed=4), 0, -1)).save(folder / "placed.png")
    (folder / "placed.pgw").write_text("0.1\n0\n0\n-0.1\n10\n50\n")
    write_scene(folder / "a b+c%20ä.tif", 140, 130, seed=5)
    write_scene(folder / "small" / "#1::2.tif", 140, 130, seed=6)
    (folder / "text.tif").write_text("this is no image")
    return folder


@pytest.fixture(scope="module")
def on_disk(archive: Path, small_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("disk") / "out"
    run([str(archive)], small_checkpoint, str(out), SETTINGS, LOCAL)
    return out


@pytest.fixture(scope="module")
def remote(archive: Path, small_checkpoint: str, s3: s3_server.Server) -> str:
    """The archive at /in and the checkpoint at /model of this URL."""
    assert s3.url
    return upload("s3://tests/module", archive, small_checkpoint)


def upload(url: str, archive: Path, checkpoint: str) -> str:
    fs = s3_server.client()
    for folder, name in ((archive, "in"), (Path(checkpoint), "model")):
        for file in folder.rglob("*"):
            if file.is_file():
                fs.put_file(str(file), f"{url}/{name}/{file.relative_to(folder)}")
    return url


def download(url: str, folder: Path) -> Path:
    """Download the objects below a URL into a folder, and return the folder."""
    fs = s3_server.client()
    root = url.removeprefix("s3://")
    for name in fs.find(root):
        target = folder / name.removeprefix(f"{root}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(fs.cat_file(name))
    return folder


@pytest.mark.parametrize(
    "runner", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
)
def test_a_run_on_s3_has_the_rows_of_the_run_on_disk(
    on_disk: Path, remote: str, s3_folder: str, tmp_path: Path, runner: str, archive: Path
) -> None:
    out = f"{s3_folder}/out"
    execution = Execution(runner=runner, block=512)
    receipt = run([f"{remote}/in"], f"{remote}/model", out, SETTINGS, execution)
    assert (receipt.scenes_done, receipt.scenes_quarantined) == (6, 1)

    local = download(out, tmp_path / "out")
    assert set(differences(on_disk, local)) == WITH_URL
    for table in ("scenes", "quarantine"):
        for disk_row, s3_row in zip(
            rows(on_disk, table).to_pylist(), rows(local, table).to_pylist(), strict=True
        ):
            assert s3_row["url"] == disk_row["url"].replace(str(archive), f"{remote}/in")
            if "message" in disk_row:
                assert s3_row["message"] == disk_row["message"].replace(
                    str(archive), f"{remote}/in"
                )
    assert stray_files(local) == []

    report = status(out)
    assert report.finished
    assert report.scenes == report.scenes_published == 7
    sql = "SELECT class_id, sum(pixels) AS n FROM statistics GROUP BY 1 ORDER BY 1"
    assert query(out, sql).equals(query(str(on_disk), sql))
    sql = "SELECT count(*) AS tiles, sum(octet_length(mask)) AS bytes FROM masks"
    assert query(out, sql).equals(query(str(on_disk), sql))


def test_resume_computes_only_what_is_missing(
    on_disk: Path, remote: str, s3_folder: str, tmp_path: Path
) -> None:
    arguments = ([f"{remote}/in"], f"{remote}/model", f"{s3_folder}/out", SETTINGS, LOCAL)

    def stop(progress: Progress) -> None:
        if progress.done_units == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(*arguments, stop)
    estimate = plan(*arguments[:2], SETTINGS, LOCAL, f"{s3_folder}/out")
    receipt = run(*arguments)
    assert receipt.units_computed == receipt.units - 2 == estimate.units > 0
    assert run(*arguments).units_computed == 0
    local = download(f"{s3_folder}/out", tmp_path / "out")
    assert set(differences(on_disk, local)) == WITH_URL
    assert stray_files(local) == []


def test_added_and_changed_files_are_noticed(
    small_checkpoint: str, s3_folder: str, tmp_path: Path
) -> None:
    """All runs share one process: neither GDAL nor s3fs may answer from a stale cache."""
    files, url = tmp_path / "in", f"{s3_folder}/in"

    def put(name: str, width: int, seed: int) -> None:
        path = write_scene(files / name, width, 150, seed=seed)
        s3_server.client().put_file(str(path), f"{url}/{name}")

    def segment(source: str, output: str) -> Receipt:
        return run([source], small_checkpoint, output, SETTINGS, LOCAL)

    put("a.tif", 200, seed=1)
    segment(url, f"{s3_folder}/first")
    put("b.tif", 180, seed=2)
    added = segment(url, f"{s3_folder}/first")
    put("a.tif", 260, seed=3)  # another header
    put("b.tif", 180, seed=4)  # the same header over other pixels
    changed = segment(url, f"{s3_folder}/first")
    segment(url, f"{s3_folder}/second")

    assert (added.units, added.units_computed) == (2, 1)
    assert (changed.units, changed.units_computed) == (2, 0)
    assert "2 inputs have changed" in changed.notes[-1]
    segment(str(files), str(tmp_path / "disk"))
    second = download(f"{s3_folder}/second", tmp_path / "second")
    assert differences(tmp_path / "disk", second, "masks", "statistics") == []


def test_requests_for_inputs_say_that_the_requester_pays(
    remote: str, small_checkpoint: str, tmp_path: Path
) -> None:
    """Every request for an input has the header, which these servers accept without billing."""
    access = Access.parse('{"requester_pays": true}')
    fs, _ = access.filesystem(remote)  # the one that reading uses, too
    fs.connect()
    payers: list[object] = []

    def record_payer(request: Any, **_: Any) -> None:
        payers.append(request.headers.get("x-amz-request-payer"))

    fs.s3.meta.events.register("before-send.s3", record_payer)
    execution = Execution(runner="local", block=512, access=access)
    run([f"{remote}/in/strips.tif"], small_checkpoint, str(tmp_path / "out"), SETTINGS, execution)
    fs.s3.meta.events.unregister("before-send.s3", record_payer)
    assert b"requester" in payers or "requester" in payers


def test_a_scene_takes_few_requests(
    s3: s3_server.Server, small_checkpoint: str, s3_folder: str, tmp_path: Path
) -> None:
    """By default, GDAL looks beside every image for the metadata files of some ten satellites."""
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto keeps no log of requests")
    name = "counted.tif"
    path = write_scene(tmp_path / name, 200, 150)
    s3_server.client().put_file(str(path), f"{s3_folder}/in/{name}")
    before = s3.requests(name)
    run([f"{s3_folder}/in/{name}"], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    requests = s3.requests(name) - before
    assert 2 <= requests <= 10


def test_no_credential_is_recorded(
    s3: s3_server.Server, remote: str, s3_folder: str, tmp_path: Path
) -> None:
    run([f"{remote}/in"], f"{remote}/model", f"{s3_folder}/out", SETTINGS, LOCAL)
    local = download(f"{s3_folder}/out", tmp_path / "out")
    files = [file for file in local.rglob("*") if file.is_file()]
    assert {"job.json", "classes.parquet"} < {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        assert s3.credentials.secret.encode() not in content
        assert s3.credentials.key.encode() not in content


Variables = Mapping[str, str | None]
"""Environment variables; None: unset."""
WRONG_SECRET = {"AWS_SECRET_ACCESS_KEY": "wrong-secret-wrong-secret-wrong-secret00"}
UNKNOWN_KEY = {"AWS_ACCESS_KEY_ID": "NOBODYSKEY0000000001"}
NO_KEY = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
NO_SERVER = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
REFUSALS: dict[str, tuple[str, str, str, str, Variables, str]] = {
    "wrong secret in": ("plan", "{r}/in", "{c}", "", WRONG_SECRET, "AWS_SECRET_ACCESS_KEY"),
    "wrong secret out": ("run", "{d}", "{c}", "{r}/o", WRONG_SECRET, "check the AWS_* variables"),
    "wrong secret checkpoint": ("run", "{d}", "{r}/model", "{o}", WRONG_SECRET, "AWS_"),
    "unknown key in": ("run", "{r}/in", "{c}", "{o}", UNKNOWN_KEY, "AWS_ACCESS_KEY_ID"),
    "no key": ("run", "{r}/in", "{c}", "{o}", NO_KEY, "AWS_ACCESS_KEY_ID"),
    "missing bucket in": ("run", "s3://missing/in", "{c}", "{o}", {}, "no such bucket"),
    "missing bucket out": ("run", "{d}", "{c}", "s3://missing/o", {}, "no such bucket"),
    "missing object": ("run", "{r}/in/9.tif", "{c}", "{o}", {}, "no such file"),
    "missing checkpoint": ("run", "{d}", "{r}/ledom", "{o}", {}, "does not exist"),
    "missing output": ("status", "{r}/o", "", "", {}, "no such folder"),
    "not an output": ("status", "{r}/in", "", "", {}, "not an output"),
    "missing bucket": ("status", "s3://missing/o", "", "", {}, "no such bucket"),
    "no profile": ("run", "{r}/in", "{c}", "{o}", {"AWS_PROFILE": "nobody"}, "AWS_PROFILE"),
}


OFTEN = ("wrong secret in", "missing bucket out", "missing object")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case in OFTEN else pytest.mark.slow, id=case)
        for case in REFUSALS
    ],
)
def test_a_refusal_is_one_clear_line(
    s3: s3_server.Server,
    remote: str,
    archive: Path,
    small_checkpoint: str,
    tmp_path: Path,
    case: str,
) -> None:
    command, source, checkpoint, output, changed, remedy = REFUSALS[case]
    if changed in (WRONG_SECRET, UNKNOWN_KEY) and not s3.checks_credentials:
        pytest.skip("moto takes any credentials")
    places = {"r": remote, "c": small_checkpoint, "d": str(archive), "o": str(tmp_path / "out")}
    arguments = [command, source]
    arguments += ["--checkpoint", checkpoint] if checkpoint else []
    arguments += ["--output", output] if output else []
    message = run_refused([word.format(**places) for word in arguments], s3, changed)
    (url,) = [w for w in (source, checkpoint, output) if w.startswith(("s3://", "{r}"))]
    assert url.format(**places) in message
    assert remedy in message
    assert not (tmp_path / "out").exists()


@pytest.fixture
def reader(s3: s3_server.Server) -> Iterator[s3_server.Credentials]:
    """A user who may read the bucket "tests" and list it, and nothing else."""
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto knows one user")
    credentials = s3_server.Credentials("READERSKEY0000000001", "readers-own-secret-" + "1" * 21)
    s3.add_user("reader", credentials)
    user = {"AWS": ["arn:aws:iam:::user/reader"]}
    s3.set_policy("tests", s3_server.policy("tests", user, "s3:GetObject", "s3:ListBucket"))
    yield credentials
    s3.set_policy("tests", None)


@pytest.mark.slow
def test_a_read_only_bucket_holds_inputs_but_no_output(
    s3: s3_server.Server,
    remote: str,
    reader: s3_server.Credentials,
    s3_folder: str,
    tmp_path: Path,
    on_disk: Path,
) -> None:
    arguments = ["run", f"{remote}/in", "--checkpoint", f"{remote}/model", "--output"]
    message = run_refused([*arguments, f"{s3_folder}/out"], s3, reader.environment())
    assert f"{s3_folder}/out" in message
    assert "bucket's policy (AccessDenied)" in message
    assert s3_server.client().find(s3_folder) == []

    options = ["--runner", "local", "--window", "128", "--stride", "96", "--batch", "2"]
    done = swath([*arguments, str(tmp_path / "out"), *options], s3, reader.environment())
    assert done.returncode == 3, done.stderr  # inputs need only be read
    assert set(differences(on_disk, tmp_path / "out")) == WITH_URL


@pytest.mark.slow
def test_an_endpoint_that_does_not_answer_is_named(
    s3: s3_server.Server, remote: str, small_checkpoint: str
) -> None:
    arguments = ["plan", f"{remote}/in", "--checkpoint", small_checkpoint]
    done = swath(arguments, s3, NO_SERVER)
    assert done.returncode == 1
    assert done.stderr.removeprefix(READING).count("\n") == 1
    assert f"{remote}/in: the store does not answer; check the endpoint" in done.stderr


def run_refused(arguments: list[str], s3: s3_server.Server, changed: Variables) -> str:
    """Run a command that must be refused in one line, and return its stderr."""
    started = time.monotonic()
    done = swath(arguments, s3, changed)
    seconds = time.monotonic() - started
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    line = done.stderr.removeprefix(READING)
    assert line.startswith("swath: error: ")
    assert line.count("\n") == 1
    secrets = [s3.credentials.secret, WRONG_SECRET["AWS_SECRET_ACCESS_KEY"]]
    assert not [secret for secret in secrets if secret in done.stderr]
    # The promise is 15 s on an idle machine; this limit only distinguishes an answer from retries.
    assert seconds < 60
    return done.stderr


def swath(
    arguments: list[str], s3: s3_server.Server, changed: Variables
) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **s3.environment(), **changed}
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def test_credentials_in_a_url_are_refused() -> None:
    for url in (
        "https://user:hidden@example.org/a.tif",
        "s3://user:hidden@tests/a.tif",
        "https://example.org/a.tif?X-Amz-Signature=hidden&X-Amz-Date=1",
    ):
        with pytest.raises(UsageError, match=r"a\.tif: holds a credential") as error:
            find_inputs([url], DEFAULT_ACCESS)
        assert "hidden" not in str(error.value)


def test_public_data_is_read_without_credentials(
    s3: s3_server.Server,
    remote: str,
    small_checkpoint: str,
    tmp_path: Path,
    on_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All inputs through s3:// with {"anon": true}, and one object through its http:// URL."""
    if not s3.checks_credentials:
        pytest.skip("moto refuses the public some names")
    anyone = s3_server.policy("tests", "*", "s3:GetObject", "s3:ListBucket")
    s3.set_policy("tests", anyone)
    for name in s3.credentials.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    access = Access.parse('{"anon": true}')
    execution = Execution(runner="local", access=access)
    run([f"{remote}/in"], small_checkpoint, str(tmp_path / "s3"), SETTINGS, execution)
    assert set(differences(on_disk, tmp_path / "s3")) == WITH_URL

    url = f"{s3.url}/{remote.removeprefix('s3://')}/in/large.tif"
    run([url], small_checkpoint, str(tmp_path / "http"), SETTINGS, LOCAL)
    scene = rows(tmp_path / "http", "scenes").to_pylist()[0]
    assert (scene["scene_id"], scene["url"]) == ("large.tif", url)
    large = [row for row in rows(on_disk, "masks").to_pylist() if row["scene_id"] == "large.tif"]
    assert rows(tmp_path / "http", "masks").to_pylist() == large
    monkeypatch.undo()
    s3.set_policy("tests", None)

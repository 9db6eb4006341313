"""Checkpoints by name from a Hugging Face Hub on loopback: fetched once, pinned, and refused in one
line."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants

from jobs.submit import forwarded, submit
from pipeline.api import run
from pipeline.cluster.shared_paths import check_shared_paths
from pipeline.errors import CheckpointError, TransientError, UnavailableError, UsageError
from pipeline.job import Job
from pipeline.job_file import JobFile
from pipeline.settings import Execution, Settings
from pipeline.storage import retry
from pipeline.storage.access import DEFAULT_ACCESS
from segformer import mit_config, read_checkpoint, write_checkpoint
from segformer.checkpoints.hub.folder import resolve
from segformer.checkpoints.hub.name import HubName
from tests.support.archives import write_scene
from tests.support.checkpoints import SMALL, random_checkpoint
from tests.support.commands import READING, Swath
from tests.support.hub_server import GOOD_TOKEN, HubServer, hub_on_loopback
from tests.support.outputs import differences

NAME = "restor/tcd-segformer"
SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")
NOWHERE = "http://127.0.0.1:9"  # the port of a service that nobody runs


@pytest.fixture
def hub(
    tmp_path: Path, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A Hub with one model, which has code and other weights beside what Swath reads."""
    folder = shutil.copytree(small_checkpoint, tmp_path / "model")
    (folder / "modeling_segformer.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"other weights")
    (folder / "tf_model.h5").write_bytes(b"more weights")
    with hub_on_loopback(tmp_path / "home", monkeypatch) as server:
        server.publish(NAME, folder)
        yield server


@pytest.fixture
def model(hub: HubServer) -> str:
    """The commit that its main branch is at."""
    return hub.models[NAME].revisions["main"]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between retries, which take no time."""
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append)
    monkeypatch.setattr(retry, "time", clock)
    return pauses


@pytest.fixture
def archive(tmp_path: Path) -> str:
    write_scene(tmp_path / "in" / "a.tif", 100, 80)
    return str(tmp_path / "in")


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def lose_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    template = NOWHERE + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def another(folder: Path, seed: int = 7) -> Path:
    write_checkpoint(random_checkpoint(mit_config("b0", 4, **SMALL), seed=seed), str(folder))
    return folder


# --- fetching -------------------------------------------------------------------------------------


def test_a_model_is_fetched_once_and_only_what_is_read(
    hub: HubServer, model: str, small_checkpoint: str
) -> None:
    read = read_checkpoint(f"hf:{NAME}")
    expected = read_checkpoint(small_checkpoint)
    assert (read.sha256, read.config) == (expected.sha256, expected.config)
    assert all(torch.equal(read.weights[name], t) for name, t in expected.weights.items())
    assert len(hub.asked("GET /storage")) == 1
    got = {request.rpartition("/")[2] for request in hub.asked("GET /restor")}
    assert got == {"config.json", "preprocessor_config.json"}
    assert not any(word in path for path in hub.requests for word in (".py", ".bin", ".h5"))
    assert not hub.asked("agent-harnesses")  # huggingface_hub's telemetry
    hub.requests.clear()
    assert read_checkpoint(f"hf:{NAME}@{model}").sha256 == expected.sha256
    assert hub.requests == []
    read_checkpoint(f"hf://{NAME}")  # asks which commit the branch is at, and nothing more
    assert not hub.asked("GET /storage")
    assert not hub.asked("GET /restor")


def test_shards_are_fetched_by_their_index(
    hub: HubServer, small_checkpoint: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_checkpoint, tmp_path / "sharded")
    os.rename(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    index = dict.fromkeys(
        read_checkpoint(small_checkpoint).weights, "model-00001-of-00001.safetensors"
    )
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    hub.publish(NAME, folder)
    weights = read_checkpoint(f"hf:{NAME}").weights
    expected = read_checkpoint(small_checkpoint).weights
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("by_file", [False, True], ids=["HF_TOKEN", "login file"])
def test_a_gated_model_needs_a_token_which_the_storage_does_not_get(
    hub: HubServer, model: str, by_file: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.models[NAME].is_gated = True
    refused = f"hf:{NAME} is gated: accept its terms at {hub.url}/{NAME}, then log in"
    with pytest.raises(CheckpointError, match=refused):
        read_checkpoint(f"hf:{NAME}")
    monkeypatch.setenv("HF_TOKEN", "hf_SomebodyElse")
    with pytest.raises(CheckpointError, match=refused):
        read_checkpoint(f"hf:{NAME}")
    if by_file:
        monkeypatch.delenv("HF_TOKEN")
        (tmp_path / "home").mkdir(exist_ok=True)
        (tmp_path / "home" / "token").write_text(GOOD_TOKEN)
    else:
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    read_checkpoint(f"hf:{NAME}")
    (stored,) = {token for path, token in hub.tokens.items() if path.startswith("/storage")}
    assert stored is None
    assert hub.tokens[f"/{NAME}/resolve/{model}/model.safetensors"] == f"Bearer {GOOD_TOKEN}"


def test_an_interrupted_download_continues(
    hub: HubServer, model: str, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.trouble("/storage/")
    read = read_checkpoint(f"hf:{NAME}@{model}")
    assert read.sha256 == read_checkpoint(small_checkpoint).sha256
    assert len(hub.asked("GET /storage")) == 2


# --- without network ------------------------------------------------------------------------------


def test_what_is_cached_works_offline(
    hub: HubServer, model: str, swath: Swath, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_checkpoint(f"hf:{NAME}").sha256
    hub.requests.clear()
    go_offline(monkeypatch)
    for name in (f"hf:{NAME}", f"hf:{NAME}@main", f"hf:{NAME}@{model}"):
        assert read_checkpoint(name).sha256 == expected
    code, out, err = swath("model", "inspect", f"hf:{NAME}")
    assert (code, err) == (0, "")
    assert out.startswith(f"checkpoint  hf:{NAME}@{model}\n")
    assert hub.requests == []


def test_without_network_a_branch_is_where_it_was_last(
    model: str, swath: Swath, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_checkpoint(f"hf:{NAME}@main")
    lose_network(monkeypatch)
    code, out, err = swath("model", "inspect", f"hf:{NAME}@main")
    assert code == 0
    assert out.startswith(f"checkpoint  hf:{NAME}@{model}\n")
    assert err == (
        f"note: {NOWHERE} does not answer: hf:{NAME}@main is taken as hf:{NAME}@{model}, for which"
        " it stood when it was last asked from here\n"
    )


def test_a_file_that_the_cache_knows_to_be_absent_is_not_asked_for(
    hub: HubServer, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(small_checkpoint, tmp_path / "bare")
    (folder / "preprocessor_config.json").unlink()
    commit = hub.publish(NAME, folder)
    note = "the checkpoint has no preprocessor_config.json"
    assert read_checkpoint(f"hf:{NAME}").config.notes[-1].startswith(note)
    go_offline(monkeypatch)
    assert read_checkpoint(f"hf:{NAME}").config.notes[-1].startswith(note)
    # A cache that was filled by another program, and may lack files that the model has.
    shutil.rmtree(tmp_path / "home" / "hub" / "models--restor--tcd-segformer" / ".no_exist")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set; unset it, or give a copy"):
        read_checkpoint(f"hf:{NAME}")
    trees = tmp_path / "home" / "hub" / "models--restor--tcd-segformer" / "trees"
    trees.mkdir()
    files = {path.name: {"size": 1, "blob_id": "0" * 40} for path in folder.iterdir()}
    listing = {"format_version": 1, "files": files}
    (trees / f"{commit}.json").write_text(json.dumps(listing))
    assert read_checkpoint(f"hf:{NAME}").config.notes[-1].startswith(note)


def test_neither_network_nor_cache_is_one_line_with_a_way_out(
    model: str, swath: Swath, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr("pipeline.storage.access.IMPATIENT_S", 0.0)
    lose_network(monkeypatch)
    for name in (f"hf:{NAME}", f"hf:{NAME}@{model}"):
        code, out, err = swath("model", "inspect", name)
        assert (code, out) == (1, "")
        assert err == (
            f"swath: error: {name}: {NOWHERE} does not answer (ConnectError); check the network,"
            " https_proxy and HF_ENDPOINT, or give a copy of its folder: --checkpoint PATH; the"
            " same command resumes the run\n"
        )
    go_offline(monkeypatch)
    code, out, err = swath("model", "inspect", f"hf:{NAME}")
    assert (code, out) == (2, "")
    assert "and HF_HUB_OFFLINE is set; unset it, or give a copy of its folder: --checkpoint" in err
    assert err.count("\n") == 1
    assert pauses == []


# --- refusals -------------------------------------------------------------------------------------


def test_what_the_hub_does_not_have_is_refused_in_one_line(hub: HubServer, swath: Swath) -> None:
    for name, words in {
        "hf:restor/nothing": f"{hub.url} has no such model, or shows it only to those who log in",
        f"hf:{NAME}@v9": "the model has no such revision; name a branch, a tag or a commit of it",
        f"hf:{NAME}@{'0' * 40}": "the model has no such revision",
        "hf:restor": "a model on the Hub is named hf:org/name, or hf:org/name@revision",
        f"hf:{NAME}/config.json": "a model on the Hub is named hf:org/name",
        f"hf:{NAME}@../main": "a model on the Hub is named hf:org/name",
        "hf:restor/a--b": "no model can have this name",
    }.items():
        code, out, err = swath("model", "inspect", name)
        assert (code, out) == (2, "")
        assert err.startswith(f"swath: error: {name}: {words}")
        assert err.count("\n") == 1


def test_a_model_without_config_names_one_of_its_files(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "iter_160000.pth").write_bytes(b"weights")
    commit = hub.publish(NAME, tmp_path / "files")
    url = f"{hub.url}/{NAME}/resolve/{commit}/iter_160000.pth"
    with pytest.raises(CheckpointError, match=f"has no config.json; give one of its files.*{url}$"):
        read_checkpoint(f"hf:{NAME}")


def test_a_server_that_is_no_hub_is_named(hub: HubServer) -> None:
    hub.trouble("/api/", 200, times=2)
    with pytest.raises(CheckpointError, match="does not answer as the Hub does; check HF_ENDPOINT"):
        read_checkpoint(f"hf:{NAME}")
    hub.trouble("/api/", 418)
    hub.troubles[0].times = 0
    with pytest.raises(CheckpointError, match=r"refuses it \(418\); check HF_ENDPOINT"):
        read_checkpoint(f"hf:{NAME}")


@pytest.mark.usefixtures("hub")
def test_a_cache_that_cannot_be_written_to_is_named(
    swath: Swath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/sys/hub")  # where not even root may write
    code, _, err = swath("model", "inspect", f"hf:{NAME}")
    assert code == 2
    assert err == (
        f"swath: error: hf:{NAME}: the Hub's cache /sys/hub cannot be written to; let HF_HOME name"
        " a folder that can\n"
    )


@pytest.mark.usefixtures("hub")
def test_a_full_disk_is_no_fault_of_the_command(
    swath: Swath, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    code, _, err = swath("model", "inspect", f"hf:{NAME}")
    assert code == 1
    where = f"the Hub's cache, {tmp_path}/home/hub"
    assert err == f"swath: error: hf:{NAME}: No space left on device ({where})\n"


@pytest.mark.usefixtures("hub")
def test_a_name_on_the_hub_is_no_place_to_write_to(small_checkpoint: str, swath: Swath) -> None:
    code, _, err = swath("model", "convert", small_checkpoint, "--to", "hf:me/mine")
    assert code == 2
    assert "is a name on the Hub; give a folder" in err


# --- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["/api/", "/resolve/", "/storage/"])
def test_a_busy_hub_is_asked_again_when_it_says(
    hub: HubServer, part: str, swath: Swath, pauses: list[float]
) -> None:
    hub.trouble(part, 429, Retry_After="7")
    before = retry.retries_so_far()
    code, _, err = swath("model", "inspect", f"hf:{NAME}")
    assert code == 0
    assert pauses == [7.0]
    assert retry.retries_so_far() == before + 1
    assert err.startswith(f"note: hf:{NAME}")
    assert "wants fewer requests (429), and asks to wait 7 s; those who log in may send more" in err
    assert err.count("\n") == 1


def test_the_hub_may_say_when_by_its_rate_limit(
    hub: HubServer, swath: Swath, pauses: list[float]
) -> None:
    hub.trouble("/api/", 429, ratelimit='"api";r=0;t=5')
    assert swath("model", "inspect", f"hf:{NAME}")[0] == 0
    assert pauses == [5.0]


def test_a_failing_hub_is_asked_again_after_growing_pauses(
    hub: HubServer, swath: Swath, pauses: list[float]
) -> None:
    hub.trouble("/api/", 503)
    hub.trouble("/storage/", 500, times=2)
    code, _, err = swath("model", "inspect", f"hf:{NAME}")
    assert (code, err) == (0, "")
    assert len(pauses) == 3
    assert all(0 < pause <= 2 for pause in pauses)


def test_a_wait_beyond_the_patience_ends_at_once(
    hub: HubServer, swath: Swath, pauses: list[float]
) -> None:
    hub.trouble("/api/", 429, Retry_After="200")
    code, out, err = swath("model", "inspect", f"hf:{NAME}")
    assert (code, out) == (1, "")
    assert "asks to wait 200 s" in err
    assert err.count("\n") == 1
    assert pauses == []


def test_errors_of_the_hub_cross_processes() -> None:
    for error in (UnavailableError("busy", 7.0), TransientError("busy", 7.0)):
        copied = pickle.loads(pickle.dumps(error))
        assert (type(copied), str(copied), copied.retry_after_s) == (type(error), str(error), 7.0)


# --- jobs -----------------------------------------------------------------------------------------


def recorded(out: Path) -> dict[str, object]:
    job: dict[str, object] = json.loads((out / "job.json").read_text())
    return job


def test_a_job_keeps_its_commit_when_the_branch_moves(
    hub: HubServer,
    model: str,
    archive: str,
    small_checkpoint: str,
    swath: Swath,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    out, options = tmp_path / "out", ["--window", 64, "--stride", 48, "--batch", 2]
    options += ["--runner", "local"]
    words = ["run", archive, "--checkpoint", f"hf:{NAME}", "--output", out, *options]
    assert swath(*words)[0] == 0
    assert recorded(out)["checkpoint"] == f"hf:{NAME}@{model}"
    assert recorded(out)["checkpoint_asked"] == f"hf:{NAME}"
    run([archive], small_checkpoint, str(tmp_path / "plain"), SETTINGS, LOCAL)
    assert differences(out, tmp_path / "plain") == []

    moved = hub.publish(NAME, another(tmp_path / "other"))
    hub.requests.clear()
    write_scene(Path(archive) / "b.tif", 90, 70)
    assert swath(*words)[0] == 0
    assert hub.requests == []  # neither the branch nor the files
    again = ["run", "--job", out / "job.toml"]
    assert f'checkpoint = "hf:{NAME}@{model}"' in (out / "job.toml").read_text()
    assert swath(*again)[0] == 0
    for name in (f"hf:{NAME}@main", f"hf:{NAME}@{moved}"):
        words[3] = name
        code, _, err = swath(*words)
        assert code == 2
        assert (
            f"another checkpoint: hf:{NAME}@{model} here, as it was then, hf:{NAME}@{moved}" in err
        )
    words[3] = small_checkpoint  # the same bytes
    assert swath(*words)[0] == 0
    kept = [path for path in out.rglob("*") if path.is_file()]
    assert not any(GOOD_TOKEN.encode() in path.read_bytes() for path in kept)


DRIVER = """
import sys
from pipeline import run
from pipeline.settings import Settings
run([sys.argv[1]], sys.argv[2], sys.argv[3], Settings(window=64, stride=48, batch=2))
print(sorted({"torch", "huggingface_hub"} & {*sys.modules}))
"""


def test_a_small_job_finds_its_commit_in_the_process_that_reads(
    hub: HubServer, model: str, archive: str, tmp_path: Path
) -> None:
    words = [archive, f"hf:{NAME}", str(tmp_path / "out")]
    command = [sys.executable, "-c", DRIVER, *words]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"
    assert recorded(tmp_path / "out")["checkpoint"] == f"hf:{NAME}@{model}"
    hub.publish(NAME, another(tmp_path / "other"))
    hub.requests.clear()
    write_scene(Path(archive) / "b.tif", 90, 70)
    receipt = run(words[:1], *words[1:], SETTINGS)
    assert (receipt.runner, receipt.units_computed, hub.requests) == ("local", 1, [])


@pytest.mark.usefixtures("hub")
def test_a_plan_pins_nothing_but_says_what_it_read(archive: str, swath: Swath) -> None:
    code, _, err = swath("plan", archive, "--checkpoint", f"hf:{NAME}", "--runner", "local")
    assert (code, err) == (0, READING)


def test_a_record_of_an_earlier_swath_has_no_name_on_the_hub() -> None:
    job = Job(SETTINGS, f"hf:{NAME}@{'0' * 40}", "0" * 64, "cpu", ("a",), (None,))
    job = replace(job, checkpoint_asked=f"hf:{NAME}")
    record = json.loads(json.dumps(job.to_json()))
    assert Job.from_json(record) == job
    del record["checkpoint_asked"]
    assert Job.from_json(record) == replace(job, checkpoint_asked=None)


@pytest.mark.usefixtures("hub")
def test_a_checkpoint_that_is_another_one_on_a_node_is_refused(
    archive: str, tmp_path: Path
) -> None:
    """As on a node whose cache is damaged: huggingface_hub checks nothing but sizes."""
    out = str(tmp_path / "out")
    execution = replace(LOCAL, max_hours=1e-9)
    with pytest.raises(Exception, match="out of time"):
        run([archive], f"hf:{NAME}", out, SETTINGS, execution)
    job = Job.from_json(json.loads((tmp_path / "out" / "job.json").read_text()))
    from pipeline.engine.replica import Replica  # noqa: PLC0415  torch

    (snapshot,) = (tmp_path / "home" / "hub").glob("models--*/snapshots/*/model.safetensors")
    data = bytearray(snapshot.read_bytes())
    data[-1] ^= 1
    snapshot.resolve().write_bytes(data)
    with pytest.raises(UsageError, match="its files on this node are not those that the job began"):
        Replica(job, DEFAULT_ACCESS, 1)


def test_names_are_neither_paths_nor_made_absolute(tmp_path: Path) -> None:
    check_shared_paths([f"hf:{NAME}@{'0' * 40}"])  # asks no cluster
    job = tmp_path / "job.toml"
    job.write_text(f'inputs = ["in"]\ncheckpoint = "hf:{NAME}"\noutput = "out"\n')
    values = JobFile.read(str(job), DEFAULT_ACCESS).values
    assert values["checkpoint"] == f"hf:{NAME}"
    assert values["output"] == f"{tmp_path}/out"
    with submit.make_context("submit", ["--job", str(job)]) as ctx:
        assert f"hf:{NAME}" in forwarded(ctx, ctx.params)


def test_a_page_of_the_hub_is_answered_with_the_name(swath: Swath) -> None:
    for page, name in {
        f"https://huggingface.co/{NAME}": f"hf:{NAME}",
        f"https://hf.co/{NAME}/": f"hf:{NAME}",
        f"https://huggingface.co/{NAME}/tree/v1.0": f"hf:{NAME}@v1.0",
    }.items():
        code, _, err = swath("model", "inspect", page)
        assert code == 2
        assert err == f"swath: error: {page} is a page of the Hub; name the model, as {name}\n"


def test_the_forms_of_a_name() -> None:
    name = HubName.parse("hf:org/name@refs/pr/4")
    assert (name.repo, name.revision, name.is_pinned) == ("org/name", "refs/pr/4", False)
    assert str(name) == "hf:org/name@refs/pr/4"
    pinned = HubName.parse(f"hf://org/na.me@{'a' * 40}")
    assert (str(pinned), pinned.is_pinned) == (f"hf:org/na.me@{'a' * 40}", True)
    assert resolve(pinned) == (pinned, None)


@pytest.mark.slow
def test_processes_that_need_a_model_at_once_fetch_it_once(hub: HubServer) -> None:
    hub.delay_s = 0.5
    program = f"from segformer import read_checkpoint; read_checkpoint('hf:{NAME}')"
    command = [sys.executable, "-c", program]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [process.communicate()[1] for process in processes] == [b""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert len(hub.asked("GET /storage")) == 1


@pytest.mark.slow
@pytest.mark.ray
def test_replicas_on_ray_fetch_once(
    hub: HubServer, model: str, archive: str, tmp_path: Path
) -> None:
    for name in "bcd":
        write_scene(Path(archive) / f"{name}.tif", 100, 80)
    ray = Execution(runner="ray", replicas=2)
    run([archive], f"hf:{NAME}", str(tmp_path / "ray"), SETTINGS, ray)
    assert len(hub.asked("GET /storage")) == 1
    run([archive], f"hf:{NAME}@{model}", str(tmp_path / "local"), SETTINGS, LOCAL)
    assert differences(tmp_path / "ray", tmp_path / "local") == []


# --- cards ----------------------------------------------------------------------------------------

CARD = """---
license: other
license_name: nvidia-license
license_link: https://example.org/LICENSE
tags: [vision]
---
<!-- a comment -->
# SegFormer for trees

![picture](tree.png)

A **SegFormer** model by [Restor](https://restor.eco), which finds \x1b[31mtrees
in aerial images. """


def test_inspect_shows_the_license_and_the_first_words(
    hub: HubServer, small_checkpoint: str, swath: Swath, tmp_path: Path
) -> None:
    commit = hub.publish(NAME, small_checkpoint, README=(CARD + "x" * 200).encode())
    code, out, err = swath("model", "inspect", f"hf:{NAME}")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        f"checkpoint  hf:{NAME}@{commit}",
        "license     other, nvidia-license, https://example.org/LICENSE",
        "card        A SegFormer model by Restor, which finds [31mtrees in aerial images. ...",
    ]
    facts = json.loads(swath("model", "inspect", f"hf:{NAME}", "--format", "json")[1])
    assert facts["license"] == "other, nvidia-license, https://example.org/LICENSE"
    folder = shutil.copytree(small_checkpoint, tmp_path / "local")
    facts = json.loads(swath("model", "inspect", folder, "--format", "json")[1])
    assert (facts["license"], facts["card"]) == (None, None)
    (folder / "README.md").write_text("---\nlicense: [\n---\n\nNo YAML.\n")
    code, out, err = swath("model", "inspect", folder)
    assert (code, err) == (0, "")
    assert "license  " not in out
    assert "card        No YAML.\n" in out


@pytest.mark.usefixtures("hub")
def test_convert_writes_a_model_of_the_hub(swath: Swath, tmp_path: Path) -> None:
    code, out, _ = swath("model", "convert", f"hf:{NAME}", "--to", tmp_path / "copy")
    assert code == 0
    assert out.startswith(f"{tmp_path}/copy: config.json")
    copy, original = read_checkpoint(str(tmp_path / "copy")), read_checkpoint(f"hf:{NAME}")
    assert copy.config == original.config
    assert copy.normalisation == original.normalisation

"""A store that is unavailable for a while: nothing is quarantined, and the rows are the same."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline.api import run
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from tests.support import s3_server
from tests.support.archives import write_scene
from tests.support.outputs import differences, stray_files

pytestmark = pytest.mark.s3

SETTINGS = Settings(window=128, stride=48, batch=2)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for number in range(8):
        write_scene(tmp_path / "in" / f"scene{number}.tif", 800, 700, seed=number)
    return tmp_path / "in"


def upload(archive: Path, url: str) -> None:
    for file in archive.iterdir():
        s3_server.client().put_file(str(file), f"{url}/{file.name}")


@pytest.mark.parametrize(
    ("execution", "outage_s"),
    [
        # Longer than s3fs retries by itself.
        pytest.param(Execution(runner="local"), 8.0, id="local"),
        pytest.param(Execution(replicas=1), 20.0, id="ray", marks=[pytest.mark.ray]),
    ],
)
@pytest.mark.slow
def test_a_run_survives_an_outage_with_the_same_rows(
    s3: s3_server.Server,
    s3_folder: str,
    small_checkpoint: str,
    archive: Path,
    tmp_path: Path,
    execution: Execution,
    outage_s: float,
) -> None:
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto forgets its objects when it ends")
    calm = tmp_path / "calm"
    run([str(archive)], small_checkpoint, str(calm), SETTINGS, Execution(runner="local"))
    upload(archive, f"{s3_folder}/in")
    started, over = threading.Event(), threading.Event()

    def outage() -> None:
        s3.end("client.rgw", kill=True)
        time.sleep(outage_s)
        s3.start_gateway()
        over.set()
        threading.Event().wait()  # the gateway dies with the thread that has started it

    def watch(progress: Progress) -> None:
        if 0 < progress.done_units < progress.total_units and not started.is_set():
            started.set()
            threading.Thread(target=outage, daemon=True).start()

    url = f"{s3_folder}/out"
    receipt = run([f"{s3_folder}/in"], small_checkpoint, url, SETTINGS, execution, watch)
    assert started.is_set()
    assert over.wait(outage_s)

    assert receipt.scenes_done == 8
    assert receipt.failures == ()
    assert receipt.retries > 0
    local = tmp_path / "out"
    s3_server.client().get(url, str(local), recursive=True)
    assert differences(calm, local, "masks", "statistics", "quarantine") == []
    assert stray_files(local) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_store_silent_for_longer_than_the_unit_timeout_is_not_taken_for_a_hang(
    s3: s3_server.Server, s3_folder: str, small_checkpoint: str, archive: Path, tmp_path: Path
) -> None:
    """Its requests are neither answered nor refused, so that nothing fails for a long while."""
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto cannot be stopped for a while")
    url = f"{s3_folder}/in/scene0.tif"  # one scene: its retries are over before the silence is
    s3_server.client().put_file(str(archive / "scene0.tif"), url)
    stopped = threading.Event()

    def silence() -> None:
        s3.send("client.rgw", signal.SIGSTOP)
        time.sleep(30.0)
        s3.send("client.rgw", signal.SIGCONT)

    def watch(_: Progress) -> None:
        if not stopped.is_set():  # before anything is read
            stopped.set()
            threading.Thread(target=silence, daemon=True).start()

    execution = Execution(replicas=1, unit_timeout=2)
    out = tmp_path / "out"
    receipt = run([url], small_checkpoint, str(out), SETTINGS, execution, watch)
    assert stopped.is_set()
    assert (receipt.scenes_done, receipt.failures) == (1, ())

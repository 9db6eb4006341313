"""A store that goes away for a while: nothing is quarantined, and the rows are the same."""

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
        # Longer than what s3fs bridges by itself.
        pytest.param(Execution(runner="local"), 8.0, id="local"),
        pytest.param(Execution(replicas=1), 20.0, id="ray", marks=[pytest.mark.ray]),
    ],
)
@pytest.mark.slow
def test_an_outage_is_waited_out(
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
    began, back = threading.Event(), threading.Event()

    def outage() -> None:
        s3.end("client.rgw", kill=True)
        time.sleep(outage_s)
        s3.start_gateway()
        back.set()
        threading.Event().wait()  # the gateway dies with the thread that has started it

    def watch(progress: Progress) -> None:
        if 0 < progress.done_units < progress.total_units and not began.is_set():
            began.set()
            threading.Thread(target=outage, daemon=True).start()

    url = f"{s3_folder}/out"
    receipt = run([f"{s3_folder}/in"], small_checkpoint, url, SETTINGS, execution, watch)
    assert began.is_set()
    assert back.wait(outage_s)

    assert receipt.scenes_done == 8
    assert receipt.failures == ()
    assert receipt.retries > 0
    local = tmp_path / "out"
    s3_server.client().get(url, str(local), recursive=True)
    assert differences(calm, local, "masks", "statistics", "quarantine") == []
    assert stray_files(local) == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_store_that_is_silent_for_longer_than_a_unit_may_be_is_no_hang(
    s3: s3_server.Server, s3_folder: str, small_checkpoint: str, archive: Path, tmp_path: Path
) -> None:
    """Its requests are neither answered nor refused, so that nothing fails for a long while."""
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto cannot be stopped for a while")
    url = f"{s3_folder}/in/scene0.tif"  # one: its tries are over before the silence is
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

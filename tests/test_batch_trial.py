"""The batch of a new output fits into memory, and is settled before anything is written."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray

import pipeline.cluster.batch_trial
import pipeline.driver.batch
import pipeline.driver.preparation
import pipeline.engine.device
import pipeline.trial.batch
from pipeline.api import plan, run
from pipeline.cluster.batch_trial import try_by_task
from pipeline.cluster.session import connected
from pipeline.errors import CheckpointError, UnfinishedError, UsageError
from pipeline.job import Job
from pipeline.planning.machine import Machine
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.planning.memory_need import MemoryNeed
from pipeline.planning.planner import BATCH
from pipeline.processes.fresh_process import run_in_fresh_process
from pipeline.processes.sandbox import Limits
from pipeline.progress import Progress
from pipeline.scene import Rect
from pipeline.settings import Execution, Settings, Trial
from pipeline.stages import Segmentation
from pipeline.storage.access import DEFAULT_ACCESS
from pipeline.trial.batch import fitting_batch, largest_batch
from pipeline.trial.calibration import random_unit
from pipeline.unit import Block, Unit
from segformer import checkpoint_sha256
from tests.support import low_memory
from tests.support.archives import write_scene
from tests.support.clusters import TOKEN, another_cluster, token_variables
from tests.support.outputs import receipts

MEMORY_BYTES = 1 << 30
"""Memory of a trial beyond its imports: less than 256 windows of 512 px take, or one of 8192 px."""
SETTINGS = Settings(window=512, stride=384)
LOCAL = Execution(runner="local")
NOTHING = MemoryBudget(MemoryNeed(*[0] * 9), Machine("cpu", 1, 10**10, tasks=0), tasks=0)


def segmentation_of(checkpoint: str, settings: Settings, timeout_s: float = 900.0) -> Segmentation:
    sha256 = checkpoint_sha256(checkpoint)
    job = Job(settings, checkpoint, sha256, "cpu", ("a", "b", "c", "d"), (None,) * 4)
    return Segmentation(job, DEFAULT_ACCESS, NOTHING, timeout_s)


def unit_of(width: int = 900, height: int = 700) -> Unit:
    scene = replace(random_unit(SETTINGS, 3, 1, 1).unit.blocks[0].scene, width=width, height=height)
    return Unit("", (Block(scene, Rect(0, 0, width, height)),))


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_until_it_does(small_checkpoint: str) -> None:
    def fitting(batch: int, unit: Unit) -> int:
        segmentation = segmentation_of(small_checkpoint, replace(SETTINGS, batch=batch))
        return fitting_batch(segmentation, unit, None, MEMORY_BYTES) or 0

    batch = fitting(256, unit_of())
    assert batch in (2, 4, 8, 16, 32, 64, 128)
    assert fitting(batch, unit_of()) == batch
    # A trial holds what a replica holds: here 0.6 GB of pixels and 0.15 GB of ids.
    assert 0 < fitting(256, unit_of(12288, 12288)) < batch


@pytest.mark.slow
def test_a_replica_that_runs_out_of_memory_names_a_batch_that_fits(small_checkpoint: str) -> None:
    def refusal(settings: Settings) -> str:
        limits = Limits(1, 1, item_s=600, memory_bytes=MEMORY_BYTES)
        segmentation = segmentation_of(small_checkpoint, settings)
        return run_in_fresh_process(
            partial(low_memory.refusal, segmentation), 900, limits, "refusal"
        )

    message = refusal(replace(SETTINGS, batch=256))
    match = re.search(
        r"no memory left with --batch 256 .*; --batch (\d+) fits here: name it, and"
        r" another --output",
        message,
    )
    assert match
    assert int(match[1]) in (2, 4, 8, 16, 32, 64, 128)
    message = refusal(Settings(window=8192, stride=8192, batch=1))
    assert "nor with any smaller batch; name a smaller --block, and another --output" in message


@pytest.fixture
def archive(tmp_path: Path) -> str:
    write_scene(tmp_path / "in" / "a.tif", 900, 700)
    return str(tmp_path / "in")


@pytest.fixture
def scarce_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes 256 the batch of a CPU, and lets it be tried with too little memory."""
    limited = partial(fitting_batch, memory_bytes=MEMORY_BYTES)
    monkeypatch.setattr(pipeline.driver.preparation, "BATCH", {"cpu": 256})
    monkeypatch.setattr(pipeline.driver.batch, "DEVICES", {"cpu"})
    monkeypatch.setattr(pipeline.trial.batch, "fitting_batch", limited)


@pytest.mark.slow
@pytest.mark.usefixtures("scarce_memory")
def test_the_batch_found_is_recorded_and_not_tried_again(
    archive: str, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, notes = tmp_path / "out", set()

    def watch(progress: Progress) -> None:
        notes.update(progress.notes)

    run([archive], small_checkpoint, str(out), SETTINGS, LOCAL, watch)
    batch = json.loads((out / "job.json").read_text())["settings"]["batch"]
    assert batch in (2, 4, 8, 16, 32, 64, 128)
    assert f"batch = {batch}\n" in (out / "job.toml").read_text()
    assert [note for note in notes if f"--batch {batch}: there is no memory for twice" in note]
    write_scene(Path(archive) / "b.tif", 300, 200)
    monkeypatch.setattr(pipeline.trial.batch, "fitting_batch", None)  # recorded: not tried again
    run([archive], small_checkpoint, str(out), SETTINGS, LOCAL)
    assert len(receipts(out)) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("scarce_memory")
def test_a_sample_of_plan_has_the_batch_that_a_run_would_have(
    archive: str, small_checkpoint: str, tmp_path: Path
) -> None:
    trial = Trial(sample=1, sample_to=str(tmp_path / "pictures"))
    estimate = plan([archive], small_checkpoint, SETTINGS, LOCAL, trial=trial)
    assert estimate.batch in (2, 4, 8, 16, 32, 64, 128)
    assert len(estimate.samples) == 1
    assert not [note for note in estimate.notes if "is tried when a run starts" in note]


@pytest.mark.usefixtures("scarce_memory")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            replace(SETTINGS, batch=256),
            r"--batch 256: there is no memory .* use --batch (2|4|8|16|32|64|128)$",
        ),
        pytest.param(
            Settings(window=8192, stride=8192, batch=2),
            r"for even one window \(.*\); use a smaller --window or",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused_before_anything_is_written(
    archive: str, small_checkpoint: str, tmp_path: Path, settings: Settings, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run([archive], small_checkpoint, str(tmp_path / "out"), settings, LOCAL)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("scarce_memory")
def test_a_trial_whose_process_is_killed_stops_the_run(
    archive: str, small_checkpoint: str, tmp_path: Path
) -> None:
    with killing_trials(), pytest.raises(UnfinishedError, match="killed by SIGKILL"):
        run([archive], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert not (tmp_path / "out").exists()


@contextmanager
def killing_trials() -> Iterator[None]:
    """Kill every child process that tries a batch, soon after its start."""
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.2):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                    worker = b"pipeline.processes.worker" in (process / "cmdline").read_bytes()
                    # Headers are read in such processes too, which have not loaded torch.
                    torch = "libtorch" in (process / "maps").read_text()
                    if worker and torch and parent == os.getpid():
                        os.kill(int(process.name), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_the_batch_of_a_cpu_is_not_tried(
    archive: str, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.engine.device, "local_devices", lambda: ("cpu", 1))
    monkeypatch.setattr(pipeline.trial.batch, "fitting_batch", None)
    run([archive], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert json.loads((tmp_path / "out" / "job.json").read_text())["settings"]["batch"] == 1
    assert not any("batch" in note for note in plan([archive], small_checkpoint, SETTINGS).notes)


def test_a_plan_for_gpus_needs_no_gpu(
    archive: str, small_checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.engine.device, "local_devices", lambda: ("cuda", 1))
    estimate = plan([archive], small_checkpoint, SETTINGS, LOCAL)
    assert (estimate.device, estimate.batch) == ("cuda", BATCH["cuda"])
    assert (
        f"whether a batch of {BATCH['cuda']} windows fits is tried when a run starts"
        in estimate.notes
    )


@pytest.fixture(scope="module")
def gpu_cluster() -> Iterator[str]:
    """The address of a cluster that claims to have a GPU."""
    with another_cluster(num_cpus=1, num_gpus=1) as address:
        yield address


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in token_variables(TOKEN).items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_the_batch_of_a_cluster_is_tried_by_a_task_on_it(
    gpu_cluster: str, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(window=128, stride=96, batch=4)
    unit = unit_of()
    assert fitting_batch(segmentation_of(small_checkpoint, settings), unit, gpu_cluster) == 4
    with pytest.raises(CheckpointError, match="gone does not exist"):
        fitting_batch(segmentation_of(str(tmp_path / "gone"), settings), unit, gpu_cluster)
    monkeypatch.setattr(pipeline.trial.batch, "LOADING_S", 0.001)  # its time limit ends it
    with pytest.raises(UnfinishedError, match="the batch could not be tried: WorkerCrashedError"):
        fitting_batch(
            segmentation_of(small_checkpoint, settings, timeout_s=0.001), unit, gpu_cluster
        )


@pytest.mark.slow
def test_a_trial_waits_for_a_busy_gpu_but_not_for_ever(
    gpu_cluster: str,
    small_checkpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(window=128, stride=96, batch=4)
    segmentation = segmentation_of(small_checkpoint, settings)
    trial = partial(largest_batch, segmentation)
    monkeypatch.setattr(pipeline.cluster.batch_trial, "WAIT_S", 2.5)
    monkeypatch.setattr(pipeline.cluster.batch_trial, "NOTE_S", 1.0)
    with connected(gpu_cluster):
        busy = ray.remote(num_cpus=0, num_gpus=1)(lambda: time.sleep(3600)).remote()
        while ray.available_resources().get("GPU"):
            time.sleep(0.1)
        assert try_by_task(trial, segmentation, unit_of(), 300.0) is None
        messages = [record.message for record in caplog.records]
        assert messages[-2:] == [
            f"waiting for a GPU of the cluster to try the batch, since {s} s" for s in (1, 2)
        ]
        ray.cancel(busy, force=True)
        monkeypatch.setattr(pipeline.cluster.batch_trial, "WAIT_S", 60.0)
        assert try_by_task(trial, segmentation, unit_of(), 300.0) == 4


def test_a_batch_that_could_not_be_tried_is_recorded_with_a_note(
    archive: str, small_checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.driver.preparation, "BATCH", {"cpu": 2})
    monkeypatch.setattr(pipeline.driver.batch, "DEVICES", {"cpu"})
    monkeypatch.setattr(pipeline.trial.batch, "fitting_batch", lambda *_: None)
    notes: set[str] = set()
    run(
        [archive],
        small_checkpoint,
        str(tmp_path / "out"),
        SETTINGS,
        LOCAL,
        lambda p: notes.update(p.notes),
    )
    assert json.loads((tmp_path / "out" / "job.json").read_text())["settings"]["batch"] == 2
    assert [note for note in notes if "no GPU of the cluster was free to try it" in note]

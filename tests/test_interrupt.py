"""Ctrl-C sends SIGINT to the whole process group; `kill` and clusters send SIGTERM to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.archives import write_scene
from tests.support.outputs import outcomes, stray_files


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("runner", ["local", pytest.param("ray", marks=pytest.mark.ray)])
@pytest.mark.slow
def test_a_signal_stops_a_run_which_says_how_to_resume(
    small_checkpoint: str, tmp_path: Path, runner: str, number: signal.Signals
) -> None:
    edge = {"local": 1500, "ray": 3000}[
        runner
    ]  # large enough to be still at work when it is stopped
    write_scene(tmp_path / "in" / "large.tif", edge, edge)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.cli", "run", str(tmp_path / "in")]
    command += ["--checkpoint", small_checkpoint, "--output", str(out), "--runner", runner]
    command += ["--window", "128", "--stride", "64", "--block", "512"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not list(out.glob("work/*/*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    if number is signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stdout == ""
    assert "run the same command again: swath run " in stderr
    if runner == "local":  # a thread of Ray may still complain about the cluster that it lost
        assert "Traceback" not in stderr
    assert 0 < outcomes(out) < {"local": 9, "ray": 36}[runner]

    if runner == "ray":  # test_killed_runs.py resumes after SIGKILL
        return
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "done by earlier runs" in again.stdout
    assert stray_files(out) == []


@pytest.mark.parametrize(
    "runner", ["local", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
)
def test_repeated_ctrl_c_ends_with_a_message_and_no_traceback(
    small_checkpoint: str, tmp_path: Path, runner: str
) -> None:
    """Ctrl-C is sent three times, at most until the process has ended."""
    write_scene(tmp_path / "in" / "large.tif", 3000, 3000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.cli", "run", str(tmp_path / "in")]
    command += ["--checkpoint", small_checkpoint, "--output", str(out), "--runner", runner]
    command += ["--window", "128", "--stride", "64", "--block", "512"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(out.glob("work/*/*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    for pause_s in (0.05, 0.3, 0.0):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(pause_s)
    _, stderr = process.communicate(timeout=30)
    # Either it exits by itself, or a signal ends it after its last message.
    assert process.returncode in (1, -signal.SIGINT)
    assert "Traceback" not in stderr
    assert "swath: error: stopped" in stderr
    assert outcomes(out) > 0

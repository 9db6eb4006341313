"""Predicted memory is an upper bound of what the replica's process takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from archives import write_scene

from segformer import SegFormer, mit_config, save_model

# The peak of a child is known to the process that waits for it.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height", "count"), [(1600, 1500, 1), (24, 20, 40)])
def test_peak_is_below_the_prediction(tmp_path: Path, width: int, height: int, count: int) -> None:
    torch.manual_seed(0)
    save_model(SegFormer(mit_config("b0", 150)), str(tmp_path / "model"))
    for n in range(count):
        write_scene(tmp_path / "in" / f"{n}.tif", width, height, seed=n)
    swath = [sys.executable, "-m", "jobs.cli"]
    job = [str(tmp_path / "in"), "--checkpoint", str(tmp_path / "model"), "--runner", "local"]
    job += ["--window", "512", "--stride", "512", "--block", "4096"]
    planned = subprocess.run(
        [*swath, "plan", *job, "--format", "json"], capture_output=True, text=True, check=True
    )
    predicted = json.loads(planned.stdout)["memory_bytes"]
    run = [*swath, "run", *job, "--output", str(tmp_path / "out")]
    peak = subprocess.run(
        [sys.executable, "-c", PEAK, *run], capture_output=True, text=True, check=True
    )
    assert int(peak.stdout) < predicted

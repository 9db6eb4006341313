"""The short version of bench/promises/kills.py: SIGKILL of all processes, then the same command."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench.promises.kills import PHASES, kill_once, start, wait
from pipeline.api import run
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene
from tests.support.outputs import differences, outcomes, recomputed_by_last, stray_files

NUMBER = 2 * list(PHASES).index("unit") + 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_run_resumes_without_computing_a_unit_twice(
    small_checkpoint: str, tmp_path: Path
) -> None:
    archive, out, calm = str(tmp_path / "in"), tmp_path / "out", tmp_path / "calm"
    write_scene(tmp_path / "in" / "large.tif", 1100, 900, seed=1)
    for n in range(4):
        write_scene(tmp_path / "in" / f"{n}.tif", 600, 500, seed=n)
    local = Execution(runner="local")
    run([archive], small_checkpoint, str(calm), Settings(window=128, stride=64), local)
    command = [archive, "--checkpoint", small_checkpoint, "--runner", "ray"]
    command += ["--window", "128", "--stride", "64", "--block", "512"]
    kill = kill_once(command, out, random.Random(0), NUMBER, 0.0)
    assert kill is not None
    before = outcomes(out)
    assert kill == {"phase": "unit", "units_done": before}
    assert before > 0
    wait(start(command, out))
    assert recomputed_by_last(out, before) == 0
    assert differences(calm, out) == []
    assert stray_files(out) == []

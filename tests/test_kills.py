"""The short version of bench/kills.py: SIGKILL of the whole tree, then the same command."""

from __future__ import annotations

from pathlib import Path

import pytest
from archives import write_scene
from kills import campaign, ok


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    small_checkpoint: str, tmp_path: Path
) -> None:
    write_scene(tmp_path / "in" / "large.tif", 1100, 900, seed=1)
    for n in range(4):
        write_scene(tmp_path / "in" / f"{n}.tif", 600, 500, seed=n)
    command = [str(tmp_path / "in"), "--checkpoint", small_checkpoint, "--runner", "ray"]
    command += ["--window", "128", "--stride", "96", "--block", "512"]
    report = campaign(command, tmp_path, 1, seed=0)
    assert len(report["kills"]) == 1
    assert ok(report), report

"""docs/cluster.md, followed line by line: three Ray nodes, a bucket, and a job that is stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import cluster_page

TILES = 6


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(900)
def test_every_command_of_the_cluster_page_works(tmp_path: Path) -> None:
    script = [sys.executable, "-m", cluster_page.__name__, str(tmp_path), str(TILES)]
    done = subprocess.run(
        [*cluster_page.isolation_prefix(), *script],
        capture_output=True,
        text=True,
        check=False,
        timeout=840,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done by earlier runs" in done.stdout
    assert f"{TILES} planned: {TILES} done" in done.stdout

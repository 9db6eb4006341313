"""The nodes of a joined cluster do the stages for which they have the resources."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.archives import write_scene
from tests.support.outputs import stray_files

pytestmark = [pytest.mark.ray, pytest.mark.slow]
UNITS = 40


def count_units(
    tmp_path: Path, checkpoint: str, nodes: list[dict[str, int]], *options: str
) -> list[dict[str, Any]]:
    """Run a job on nodes with these resources; the units that each read, segmented and finished."""
    write_scene(tmp_path / "in" / "a.tif", 512 * UNITS, 512)
    command = [sys.executable, "-m", "bench.promises.placing", str(tmp_path / "in"), checkpoint]
    command += [str(tmp_path / "out"), json.dumps(nodes), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert stray_files(tmp_path / "out") == []
    counts: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_nodes_without_gpus_decode_for_nodes_with_gpus(
    tmp_path: Path, small_checkpoint: str
) -> None:
    """The GPU node has no CPU at all: replicas ask for no CPU, and reads for CPUs only."""
    nodes = [{"num_cpus": 0, "num_gpus": 1}, {"num_cpus": 2}]
    gpus, cpus = count_units(tmp_path, small_checkpoint, nodes)
    assert (gpus["read"], gpus["finish"], cpus["segment"]) == (0, 0, 0)
    assert min(cpus["read"], cpus["finish"], gpus["segment"]) >= UNITS


def test_a_pool_that_may_grow_beyond_the_cpus_leaves_some_to_the_reads(
    tmp_path: Path, small_checkpoint: str
) -> None:
    (node,) = count_units(tmp_path, small_checkpoint, [{"num_cpus": 4}], "--replicas", "1:16")
    assert min(node.values()) >= UNITS

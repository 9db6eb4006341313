"""Which nodes of a joined cluster do what, by the resources that the stages ask for.

The nodes are processes on this machine, and their GPUs are numbers: the replica is an idle one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import write_scene
from idle import PlacedStage, PlacedWork, places
from outputs import stray_files
from ray.cluster_utils import Cluster

import pipeline.flow
import pipeline.job
from pipeline.job import run
from pipeline.settings import Execution, Settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SETTINGS = Settings(window=128, stride=128, batch=1)
UNITS = 40


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without any resource, to which nodes can be added."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # of a cluster that is gone in a minute
    monkeypatch.setattr(pipeline.job, "Work", PlacedWork)
    monkeypatch.setattr(pipeline.flow, "SegmentStage", PlacedStage)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


def ran(cluster: Any, tmp_path: Path, checkpoint: str, **how: Any) -> dict[str, Counter[str]]:
    """How many units each node has read, segmented and finished."""
    write_scene(tmp_path / "in" / "a.tif", 512 * UNITS, 512)
    out = str(tmp_path / "out")
    execution = Execution(address=cluster.address, block=512, **how)
    receipt = run([str(tmp_path / "in")], checkpoint, out, SETTINGS, execution)
    assert receipt.units_computed == UNITS
    assert stray_files(out) == []
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in places(out).read_text().splitlines():
        stage, node = line.split()
        found[stage][node] += 1
    return found


def test_nodes_without_gpus_decode_for_those_with(
    cluster: Any, tmp_path: Path, small_checkpoint: str
) -> None:
    """The GPU node has no CPU at all: replicas ask for none, and reads for nothing else."""
    gpus = cluster.add_node(num_cpus=0, num_gpus=1)
    cpus = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    found = ran(cluster, tmp_path, small_checkpoint)
    assert set(found["segment"]) == {gpus.node_id}
    assert set(found["read"]) == set(found["finish"]) == {cpus.node_id}


def test_a_pool_that_may_grow_beyond_the_cpus_leaves_some_to_the_reads(
    cluster: Any, tmp_path: Path, small_checkpoint: str
) -> None:
    cluster.add_node(num_cpus=4)
    cluster.wait_for_nodes()
    found = ran(cluster, tmp_path, small_checkpoint, replicas=(1, 16))
    assert found["segment"].total() >= UNITS

"""Local paths that not every node of a cluster sees."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipeline.cluster.session import connected
from pipeline.cluster.shared_paths import check_shared_paths
from pipeline.errors import UsageError


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_path_that_a_node_does_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # for a cluster that lives for a minute
    shared = tmp_path / "shared"
    shared.touch()
    opened = os.open(shared, os.O_RDONLY)
    os.dup2(opened, 200)
    private_path = "/proc/self/fd/200"  # visible to this process only
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        with connected(cluster.address):
            check_shared_paths([private_path])  # the head alone: no other node has to see it
        cluster.add_node(num_cpus=1)
        with connected(cluster.address):
            check_shared_paths([str(shared), "s3://nobody/looks"])
            with pytest.raises(UsageError, match=r"the node .* does not see it; put it on a file"):
                check_shared_paths([str(shared), private_path])
    finally:
        cluster.shutdown()
        gc.collect()  # Ray leaves a socket open: collect it here, not in the next test
        os.close(200)
        os.close(opened)

"""What does each node of a joined cluster do, by the resources that the stages request?

    python -m bench.promises.placing ARCHIVE CHECKPOINT OUT NODES [--replicas MIN:MAX]

NODES: a JSON list of the nodes' resources, such as
[{"num_cpus": 0, "num_gpus": 1}, {"num_cpus": 2}]. The nodes are processes on this machine, beside a
head without CPUs and GPUs, and their GPUs are numbers: the replicas are idle ones. The last line is
one JSON document: how many units each node has read, segmented and finished, in the order of NODES.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter

from ray.cluster_utils import Cluster

from bench.support.idle_stages import (
    PlacedReadStage,
    PlacedSegmentStage,
    PlacedUnitSink,
    placement_log,
)
from jobs.option_types import Replicas
from pipeline.api import run_request
from pipeline.cluster.stages import Stages
from pipeline.driver.preparation import prepare
from pipeline.driver.request import Request
from pipeline.output.layout import Output
from pipeline.settings import Execution, Settings

STAGES = Stages(PlacedReadStage, PlacedSegmentStage, PlacedUnitSink)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive")
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("nodes", type=json.loads)
    parser.add_argument("--replicas")
    options = parser.parse_args()
    # The cluster is gone in a minute; its nodes' processes import the stages from here.
    os.environ |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(sys.path)}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(**resources) for resources in options.nodes]
    cluster.wait_for_nodes()
    replicas = Replicas().convert(options.replicas, None, None) if options.replicas else None
    execution = Execution(address=cluster.address, block=512, replicas=replicas)
    settings = Settings(window=128, stride=128, batch=1)
    request = Request([options.archive], options.checkpoint, settings, execution)
    try:
        # A number is no GPU that a batch could be tried on, and a recorded batch is not tried.
        with request.opened(None) as opened:
            Output.create(options.out, prepare(opened, None).job, execution.access)
        run_request(request, options.out, stages=STAGES)
    finally:
        cluster.shutdown()
    ran = Counter(
        tuple(line.split()) for line in placement_log(options.out).read_text().splitlines()
    )
    names = ("read", "segment", "finish")
    print(json.dumps([{name: ran[name, node.node_id] for name in names} for node in nodes]))


if __name__ == "__main__":
    main()

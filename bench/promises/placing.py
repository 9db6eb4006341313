"""Which node of a joined cluster does what, by the resources that the stages ask for.

    python -m bench.promises.placing ARCHIVE CHECKPOINT OUT NODES [--replicas MIN:MAX]

NODES: a JSON list of what each node has, such as [{"num_cpus": 0, "num_gpus": 1}, {"num_cpus": 2}].
They are processes on this machine beside a head without any, and their GPUs are numbers: the
replicas are idle ones. The last line is one JSON document: how many units each has read, segmented
and finished, in the order of NODES.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter

from ray.cluster_utils import Cluster

from bench.support.idle import PlacedStage, PlacedWork, places
from jobs.option_types import Replicas
from pipeline import api
from pipeline.cluster import flow
from pipeline.driver import preparation
from pipeline.settings import Execution, Settings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive")
    parser.add_argument("checkpoint")
    parser.add_argument("out")
    parser.add_argument("nodes", type=json.loads)
    parser.add_argument("--replicas")
    given = parser.parse_args()
    # Of a cluster that is gone in a minute; and for the processes of its nodes.
    os.environ |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.pathsep.join(sys.path)}
    vars(api)["Work"], vars(flow)["SegmentStage"] = PlacedWork, PlacedStage
    vars(preparation)["DEVICES"] = set()  # a number is no GPU that a batch could be tried on
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(**resources) for resources in given.nodes]
    cluster.wait_for_nodes()
    replicas = Replicas().convert(given.replicas, None, None) if given.replicas else None
    execution = Execution(address=cluster.address, block=512, replicas=replicas)
    settings = Settings(window=128, stride=128, batch=1)
    try:
        api.run([given.archive], given.checkpoint, given.out, settings, execution)
    finally:
        cluster.shutdown()
    ran = Counter(tuple(line.split()) for line in places(given.out).read_text().splitlines())
    stages = ("read", "segment", "finish")
    print(json.dumps([{s: ran[s, node.node_id] for s in stages} for node in nodes]))


if __name__ == "__main__":
    main()

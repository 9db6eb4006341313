"""What comes out of a Ray cluster of three nodes that loses one, and what is computed again?

    python -m bench.promises.nodes --work FOLDER

Three nodes on this machine (ray.cluster_utils), the head without CPUs. The demo's archive is
segmented by the plain loop, then on the cluster: undisturbed, with a worker node killed hard in the
middle, and with one drained first, as before the end of a spot machine. Every read, segmentation
and write of a unit leaves a line in a file. The last line is one JSON document. Exit code 0:
the rows are the same, and nothing was computed again after the drain.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.promises.same_rows import CHECKPOINT, write_archive
from tests.support.outputs import differences, stray_files

DEADLINE_S = 30
"""Time between the notice and the end of a drained node; spot machines give 30 to 120 s."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    archive = write_archive(work / "archive")
    os.environ["RAY_AUTH_MODE"] = "disabled"  # loopback only, and gone in minutes
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    from pipeline.api import run  # noqa: PLC0415  Ray reads its variables when it is imported
    from pipeline.settings import Execution, Settings  # noqa: PLC0415

    settings = Settings(batch=1)
    calm = work / "calm"
    shutil.rmtree(calm, ignore_errors=True)
    run([str(archive)], str(CHECKPOINT), str(calm), settings, Execution(runner="local"))
    records = {}
    for name, disturb in (("undisturbed", None), ("killed", kill), ("drained", drain)):
        out = work / name
        shutil.rmtree(out, ignore_errors=True)
        records[name] = on_cluster([str(archive)], out, settings, disturb)
        records[name]["differences"] = differences(calm, out)
        records[name]["stray_files"] = stray_files(out)
        print(name, records[name], file=sys.stderr, flush=True)
    same = not any(one["differences"] or one["stray_files"] for one in records.values())
    none_again = not any(records["drained"]["again"].values())
    print(json.dumps({"same": same, "deadline_s": DEADLINE_S, "runs": records}))
    sys.exit(0 if same and none_again else 1)


def on_cluster(
    inputs: list[str], out: Path, settings: Any, disturb: Callable[[Any, Any], None] | None
) -> dict[str, Any]:
    """The record of one run on a fresh cluster. As soon as a fifth of the units is done,
    `disturb(cluster, node)` is called about once a second."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    from bench.support import logged_stages  # noqa: PLC0415  imports Ray
    from pipeline.api import run_request  # noqa: PLC0415
    from pipeline.cluster.stages import Stages  # noqa: PLC0415
    from pipeline.driver.request import Request  # noqa: PLC0415
    from pipeline.settings import Execution  # noqa: PLC0415

    log = out.with_suffix(".log")
    log.unlink(missing_ok=True)
    os.environ[logged_stages.LOG] = str(log)
    stages = Stages(
        logged_stages.LoggedReadStage,
        logged_stages.LoggedSegmentStage,
        logged_stages.LoggedUnitSink,
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    workers = [cluster.add_node(num_cpus=3) for _ in range(2)]
    cluster.wait_for_nodes()
    started = time.monotonic()

    def watch(progress: Any) -> None:
        if disturb is not None and 5 * progress.done_units >= progress.total_units:
            disturb(cluster, workers[0])

    try:
        execution = Execution(address=cluster.address, replicas=2)
        request = Request(inputs, str(CHECKPOINT), settings, execution)
        receipt = run_request(request, str(out), watch, stages)
        nodes_at_the_end = 1 + len(cluster.worker_nodes)
    finally:
        cluster.shutdown()
    counts = Counter(tuple(line.split()) for line in log.read_text().splitlines())
    again: Counter[str] = Counter()
    for (stage, _), times in counts.items():
        again[stage] += times - 1
    return {
        "units": receipt.units,
        "again": dict(again),
        "nodes_at_the_end": nodes_at_the_end,
        "failures": len(receipt.failures),
        "seconds": round(time.monotonic() - started, 1),
    }


def kill(cluster: Any, node: Any) -> None:
    if node in cluster.worker_nodes:
        print("killing a node", file=sys.stderr, flush=True)
        cluster.remove_node(node, allow_graceful=False)


def drain(cluster: Any, node: Any) -> None:
    """Give notice of the node's end, then kill it at the deadline."""
    if node not in cluster.worker_nodes:
        return
    if not hasattr(node, "noticed"):
        print("draining a node", file=sys.stderr, flush=True)
        node.noticed = time.monotonic()
        command = ["ray", "drain-node", "--address", cluster.address, "--node-id", node.node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command += ["--deadline-remaining-seconds", str(DEADLINE_S)]
        ray = Path(sys.executable).parent / "ray"
        subprocess.run([ray, *command[1:]], check=True, stdout=subprocess.DEVNULL)
    elif time.monotonic() - node.noticed > DEADLINE_S:
        kill(cluster, node)


if __name__ == "__main__":
    main()

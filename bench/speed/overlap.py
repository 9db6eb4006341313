"""Does reading from S3 keep a replica busy, and what does it cost?

    python -m bench.speed.overlap --work FOLDER [--seconds 2] [--rounds 2]

One scene of 42 blocks is on a real S3 server (in and out) and on local disk. The Ray flow of
`swath run` segments it, on S3 and on disk in turns, with one replica that waits a fixed time per
unit instead of computing; everything else does its real work. The steady state lasts from the start
of the 4th unit to the end of the last but 3rd; the share is the part of it during which the replica
was busy, that is its throughput relative to its own rate. CPU seconds are those of the reader's
process (all threads) per megapixel read, halo included. The last line is one JSON document. Exit
code 1: a share on S3 was below 0.95.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from tests.support import s3_server
from tests.support.checkpoints import save_small

ENOUGH = 0.95
BLOCK_PX, COLUMNS, ROWS = 2048, 6, 7
SKIPPED = 3
"""Units at either end that do not belong to the steady state."""
BUCKET = "overlap"
Events = list[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="of the replica, per unit")
    parser.add_argument("--rounds", type=int, default=2, help="on S3 and on disk, each")
    options = parser.parse_args()
    work: Path = options.work
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    scene = write_scene(work / "in" / "scene.tif")
    checkpoint = save_small(work / "checkpoint")
    runs: dict[str, list[dict[str, Any]]] = {"s3": [], "disk": []}
    with s3_server.running() as server:
        server.make_bucket(BUCKET)
        s3_server.client().put_file(str(scene), f"s3://{BUCKET}/in/scene.tif")
        places = {"s3": f"s3://{BUCKET}", "disk": str(work)}
        for number in range(options.rounds):
            for kind, place in places.items():
                shutil.rmtree(work / "out", ignore_errors=True)
                out = f"{place}/out{number if kind == 's3' else ''}"
                log = work / f"{kind}{number}.log"
                record = one_run(f"{place}/in", out, checkpoint, log, options.seconds)
                runs[kind].append(record)
                print(kind, record, file=sys.stderr, flush=True)
    lowest = min(run["share"] for run in runs["s3"])
    sides = {kind: summary(work, kind, records) for kind, records in runs.items()}
    print(
        json.dumps(
            {
                "server": server.name,
                "scene": f"{COLUMNS * BLOCK_PX} x {ROWS * BLOCK_PX} px, 3 bands, deflate,"
                f" {scene.stat().st_size / 1e6:.0f} MB",
                "replica_s_per_unit": options.seconds,
                "lowest_share_on_s3": lowest,
                "enough": lowest >= ENOUGH,
                **sides,
            }
        )
    )
    sys.exit(0 if lowest >= ENOUGH else 1)


def one_run(inputs: str, out: str, checkpoint: str, log: Path, replica_s: float) -> dict[str, Any]:
    """The record of a run with the waiting replica in this process, from its stages' log."""
    from bench.support import timed_stages  # noqa: PLC0415  imports Ray
    from pipeline.api import run_request  # noqa: PLC0415
    from pipeline.cluster.stages import Stages  # noqa: PLC0415
    from pipeline.driver.request import Request  # noqa: PLC0415
    from pipeline.settings import Execution, Settings  # noqa: PLC0415

    stages = Stages(
        timed_stages.TimedReadStage,
        timed_stages.WaitingSegmentStage,
        timed_stages.TimedUnitSink,
    )
    log.unlink(missing_ok=True)
    os.environ |= {timed_stages.LOG: str(log), timed_stages.SECONDS: str(replica_s)}
    load_before, started = os.getloadavg()[0], time.monotonic()
    execution = Execution(block=BLOCK_PX, replicas=1)
    request = Request([inputs], checkpoint, Settings(batch=1), execution)
    receipt = run_request(request, out, stages=stages)
    if receipt.failures or receipt.units != COLUMNS * ROWS:
        raise RuntimeError(f"{out}: {receipt.units} units, failures: {receipt.failures}")
    steady = sorted(events(log, "segment"), key=lambda event: event["begin"])[SKIPPED:-SKIPPED]
    reads = events(log, "read")
    gaps = [later["begin"] - one["end"] for one, later in itertools.pairwise(steady)]
    elapsed_s = steady[-1]["end"] - steady[0]["begin"]
    return {
        "share": round(replica_s * len(steady) / elapsed_s, 4),
        "units_in_steady_state": len(steady),
        "gap_s": spread(gaps),
        "read_s": spread([event["end"] - event["begin"] for event in reads]),
        "readers": len({event["pid"] for event in reads}),
        "seconds": round(time.monotonic() - started, 1),
        "load_before_and_after": [round(load_before, 1), round(os.getloadavg()[0], 1)],
    }


def summary(work: Path, kind: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    reads = [event for n in range(len(runs)) for event in events(work / f"{kind}{n}.log", "read")]
    per_mpx = [event["cpu_s"] / (event["pixels"] / 1e6) for event in reads]
    return {
        "reader_cpu_s_per_mpx": spread(per_mpx),
        "mpx_per_unit": spread([event["pixels"] / 1e6 for event in reads]),
        "runs": runs,
    }


def events(log: Path, stage: str) -> Events:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [event for event in lines if event["stage"] == stage]


def spread(values: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4)
    named = {"median": statistics.median(values), "quartile_1": low, "quartile_3": high}
    return {name: round(value, 4) for name, value in {**named, "most": max(values)}.items()}


def write_scene(path: Path) -> Path:
    """Write smooth shapes with 4 bits of noise: deflate leaves three quarters, as with
    photographs."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:BLOCK_PX, :BLOCK_PX] / 300
    width, height = COLUMNS * BLOCK_PX, ROWS * BLOCK_PX
    unfinished = path.with_suffix(".half")
    with rasterio.open(
        unfinished,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=3,
        dtype="uint8",
        crs="EPSG:32633",
        transform=from_origin(500_000, 5_000_000, 10, 10),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        zlevel=1,
        interleave="pixel",
    ) as file:
        for row in range(0, height, BLOCK_PX):
            for column in range(0, width, BLOCK_PX):
                shapes = 120 + 110 * np.sin(rows + row) * np.cos(columns + column)
                noise = rng.integers(0, 16, (3, BLOCK_PX, BLOCK_PX), np.uint8)
                values = shapes.astype(np.uint8) + noise
                file.write(values, window=Window(column, row, BLOCK_PX, BLOCK_PX))
    unfinished.rename(path)
    return path


if __name__ == "__main__":
    main()

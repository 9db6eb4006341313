"""Does the whole job run as fast as the engine alone?

    python -m bench.speed.whole --work FOLDER [--size 8192] [--rounds 3] [--replicas 1,2]
                                [--results PATH]

Job: the Ray flow of `swath run` over one scene on local disk, B0 with 5 classes, each replica with
a clock. Its rate is the sum of the replicas' rates in the steady state: a replica's windows, those
of its first unit excluded, over the time from the end of that unit to the end of its last one,
pauses included. Engine: the same number of processes, each looping over the windows of its part of
the same pixels in memory, blended; loading does not count. The two take turns. With fewer replicas
than cores the rest of the job has a core to itself; with as many, it has to share. The last line is
one JSON document. Exit code 1: the lower end of a ratio's 95 % interval is below 0.95.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from itertools import groupby
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import rasterio
import torch

from bench.promises.memory import TILED, write_large
from bench.speed.overlap import events
from bench.support.rounds import machine, spread, times_faster
from pipeline.grid import WindowGrid
from pipeline.settings import Settings
from segformer import mit_config
from tests.support.checkpoints import random_checkpoint, save_checkpoint

ENOUGH = 0.95
SETTINGS = Settings()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", type=int, default=8192, help="edge of the scene in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", default="1,2", help="how many, each measured for itself")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    work: Path = options.work
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    scene = work / "in" / "scene.tif"
    write_large(scene, options.size, TILED, width=options.size)
    checkpoint = save_checkpoint(
        random_checkpoint(mit_config("b0", 5), seed=2), work / "checkpoint"
    )
    measurements = [
        measure(scene, checkpoint, work, int(replicas), options.rounds)
        for replicas in options.replicas.split(",")
    ]
    document = json.dumps(
        {
            **machine("cuda" if torch.cuda.is_available() else "cpu", 1),
            "cores": len(os.sched_getaffinity(0)),
            "scene": f"{options.size} x {options.size} px, b0, 5 classes, 512/384, float32",
            "measured": measurements,
        }
    )
    if options.results:
        options.results.write_text(document + "\n")
    print(document)
    sys.exit(0 if all(each["job_of_engine"]["low"] >= ENOUGH for each in measurements) else 1)


def measure(scene: Path, checkpoint: str, work: Path, replicas: int, rounds: int) -> dict[str, Any]:
    """The rates of the job and of the engine alone, which take turns."""
    jobs: list[dict[str, Any]] = []
    engine_rates: list[float] = []
    for _ in range(rounds):
        jobs.append(job(scene, checkpoint, work, replicas))
        engine_rates.append(engines(scene, checkpoint, replicas))
        print("windows/s: job", jobs[-1], "engine", engine_rates[-1], file=sys.stderr, flush=True)
    job_rates = [float(each["windows_per_s"]) for each in jobs]
    return {
        "replicas": replicas,
        "job_windows_per_s": spread(job_rates),
        "engine_windows_per_s": spread(engine_rates),
        # A rate's ratio the other way round is that of seconds per window.
        "job_of_engine": times_faster(job_rates, engine_rates),
        "jobs": jobs,
    }


def job(scene: Path, checkpoint: str, work: Path, replicas: int) -> dict[str, Any]:
    """The record of one run in this process, from its replicas' log."""
    from bench.support import timed_stages  # noqa: PLC0415  imports Ray
    from pipeline.api import plan, run_request  # noqa: PLC0415
    from pipeline.cluster.stages import Stages  # noqa: PLC0415
    from pipeline.driver.request import Request  # noqa: PLC0415
    from pipeline.settings import Execution  # noqa: PLC0415

    log, out = work / "whole.log", work / "out"
    log.unlink(missing_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    os.environ[timed_stages.LOG] = str(log)
    execution, started = Execution(replicas=replicas), time.monotonic()
    planned = plan([str(scene)], checkpoint, SETTINGS, execution)
    request = Request([str(scene)], checkpoint, SETTINGS, execution)
    receipt = run_request(request, str(out), stages=Stages(segment=timed_stages.TimedSegmentStage))
    if receipt.failures:
        raise RuntimeError(f"{out}: {receipt.failures}")
    segmented = sorted(events(log, "segment"), key=lambda event: (event["pid"], event["begin"]))
    units = [list(group) for _, group in groupby(segmented, key=lambda event: event["pid"])]
    return {
        "windows_per_s": round(sum(map(steady_rate, units)), 3),
        "units_of_each_replica": [len(each) for each in units],
        "windows_computed": sum(event["windows"] for event in segmented),
        "windows_planned": planned.windows_computed,
        "windows_of_the_grid": planned.windows,
        "busy": round(sum(e["end"] - e["begin"] for e in segmented) / sum(map(lasted, units)), 4),
        "seconds": round(time.monotonic() - started, 1),
        "bound_by": receipt.bounded_by,
    }


def steady_rate(units: list[dict[str, Any]]) -> float:
    windows = sum(event["windows"] for event in units[1:])
    return windows / (units[-1]["end"] - units[0]["end"])


def lasted(units: list[dict[str, Any]]) -> float:
    return float(units[-1]["end"] - units[0]["begin"])


def engines(scene: Path, checkpoint: str, replicas: int) -> float:
    """Windows/s of the engine in all processes together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(replicas)
    rates = context.SimpleQueue()
    processes = [
        context.Process(target=engine, args=(scene, checkpoint, (n, replicas), barrier, rates))
        for n in range(replicas)
    ]
    for process in processes:
        process.start()
    per_process = [rates.get() for _ in processes]
    for process in processes:
        process.join()
    return round(sum(per_process), 3)


@torch.inference_mode()
def engine(
    scene: Path, checkpoint: str, share: tuple[int, int], barrier: Barrier, rates: Any
) -> None:
    """Segment a part of the scene's rows in memory, and put the windows/s into the queue. share:
    its number, and the number of parts."""
    from bench.support.contestants import ours  # noqa: PLC0415  only these processes need it
    from pipeline.planning.planner import BATCH  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with rasterio.open(scene) as file:
        pixels_CHW = file.read()
    number, count = share
    rows = pixels_CHW.shape[1] // count
    pixels_CHW = pixels_CHW[:, number * rows : (number + 1) * rows]
    segment = ours(checkpoint, Settings(batch=BATCH[device]), device)
    segment(pixels_CHW[:, :1024, :1024])
    grid = WindowGrid.of(pixels_CHW.shape[2], rows, SETTINGS.window, SETTINGS.stride)
    barrier.wait(timeout=120)
    started = time.monotonic()
    segment(pixels_CHW)
    rates.put(grid.rows.count * grid.cols.count / (time.monotonic() - started))


if __name__ == "__main__":
    main()

"""How close are the time and memory that `swath plan --calibrate` estimates to what a run takes?

    python -m bench.promises.estimate --work FOLDER [--rounds 3] [--results PATH] [CASE...]

Three jobs of different shape, all with MiT-B0: one large scene; many small files, whose windows are
mostly padding; small windows that overlap by half, with 150 classes. On two cores each takes half a
minute to a minute. Shorter jobs say little, because the processes that read take seconds to start
beside the replicas. Time excludes start-up. A job is estimated again before each of its runs, and
the jobs take turns, because a shared machine is sometimes faster, sometimes slower. The last line
is one JSON document. Exit code 1: the median of a job's times is off by more than 20 %, or more
memory was held than estimated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from bench.promises.memory import MARK, TILED, write_large
from bench.support.processes import Watch
from bench.support.rounds import machine, spread
from segformer import mit_config
from tests.support.checkpoints import random_checkpoint, save_checkpoint

OFF = 0.2
FILES = 1_000
SWATH = [sys.executable, "-m", "jobs.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="scene, files or overlap; default: all"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    jobs = commands(options.work)
    if unknown := set(options.cases) - jobs.keys():
        parser.error(f"no such CASE: {', '.join(sorted(unknown))}; there are {', '.join(jobs)}")
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in options.cases or jobs}
    for number in range(options.rounds):
        for name, records in turns.items():
            records.append(compared(jobs[name], options.work / f"out-{name}"))
            print(f"round {number + 1}: {name}: {records[-1]}", file=sys.stderr, flush=True)
    report = {name: summary(records) for name, records in turns.items()}
    cores = len(os.sched_getaffinity(0))
    document = json.dumps(
        {**machine("cpu", 1), "cores": cores, "rounds": options.rounds, "jobs": report}
    )
    if options.results:
        options.results.write_text(document + "\n")
    print(document)
    sys.exit(0 if all(map(ok, report.values())) else 1)


def commands(work: Path) -> dict[str, list[str]]:
    """Write the inputs that are missing, and return the arguments of `swath run` by case."""
    write_large(work / "scene" / "scene.tif", 10_000, TILED, width=8_400)
    write_large(work / "overlap" / "scene.tif", 5_000, TILED, width=5_000)
    for number in range(FILES):
        write_large(work / "files" / f"{number:04d}.tif", 400, {"blockysize": 16}, width=384)
    b0 = {
        classes: save_checkpoint(
            random_checkpoint(mit_config("b0", classes), seed=1), work / f"b0-{classes}"
        )
        for classes in (5, 150)
    }
    return {
        "scene": [str(work / "scene"), "--checkpoint", b0[5]],
        "files": [str(work / "files"), "--checkpoint", b0[5]],
        "overlap": [
            *[str(work / "overlap"), "--checkpoint", b0[150]],
            *["--window", "256", "--stride", "128"],
        ],
    }


def compared(command: list[str], out: Path) -> dict[str, Any]:
    """Plan and run with these arguments, and return both sides."""
    shutil.rmtree(out, ignore_errors=True)
    plan = _json([*SWATH, "plan", *command, "--calibrate", "--format", "json"])
    mark = uuid.uuid4().hex
    with Watch(MARK, mark) as watch:
        subprocess.run(
            [*SWATH, "run", *command, "--output", str(out)],
            check=True,
            env={**os.environ, MARK: mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    (receipt,) = _json([*SWATH, "status", str(out), "--format", "json"])["runs"]
    took_s = receipt["seconds"] - receipt["startup_s"]
    return {
        "replicas": plan["replicas"],
        "units": plan["units"],
        "windows": plan["windows_computed"],
        "window_ms": round(plan["rate"]["window_s"] * 1000, 1),
        "window_ms_in_the_run": round(receipt["segment_s"] / receipt["windows_computed"] * 1000, 1),
        "busy": round(receipt["busy"], 3),
        "foretold_s": round(plan["hours"] * 3600, 1),
        "took_s": round(took_s, 1),
        "time_ratio": round(took_s / (plan["hours"] * 3600), 3),
        "foretold_bytes": plan["memory"]["total"],
        "held_bytes": watch.total_bytes,
    }


SAME = ("replicas", "units", "windows", "foretold_bytes")
"""The figures that are the same in every round of a job."""


def summary(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of a job: what is the same in its rounds, and the spread of the rest."""
    measured = {key: spread([turn[key] for turn in turns]) for key in turns[0] if key not in SAME}
    return {**{key: turns[0][key] for key in SAME}, **measured}


def _json(command: list[str]) -> Any:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


def ok(case: dict[str, Any]) -> bool:
    off = abs(case["time_ratio"]["median"] - 1)
    return off <= OFF and case["held_bytes"]["most"] <= case["foretold_bytes"]


if __name__ == "__main__":
    main()

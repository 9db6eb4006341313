"""What `swath plan --calibrate` foretells, beside what `swath run` then takes: time and memory.

    python bench/estimate.py --work FOLDER [--results PATH] [CASE...]

Three jobs of different shape: one large scene with MiT-B0; many small files, most of each window
filled up; small windows that overlap by half, with 150 classes. Time is without start-up. The last
line is one JSON document; exit code 1 where a time is off by more than 20 %, or more memory is held
than was foretold.
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

from memory import MARK, TILED, write_large
from processes import Watch
from rounds import machine
from same_rows import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from checkpoints import random_checkpoint, saved

from segformer import mit_config

OFF = 0.2
FILES = 500
SWATH = [sys.executable, "-m", "jobs.cli"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help="scene, files, overlap")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    report = {}
    for name, command in commands(given.work).items():
        if not given.cases or name in given.cases:
            report[name] = compared(command, given.work / f"out-{name}")
            print(name, report[name], file=sys.stderr, flush=True)
    cores = len(os.sched_getaffinity(0))
    document = json.dumps({**machine("cpu", 1), "cores": cores, "jobs": report})
    if given.results:
        given.results.write_text(document + "\n")
    print(document)
    sys.exit(0 if all(map(ok, report.values())) else 1)


def commands(work: Path) -> dict[str, list[str]]:
    """The arguments of run, by case; writes the inputs that are not there yet."""
    write_large(work / "scene" / "scene.tif", 7_000, TILED, width=6_000)
    write_large(work / "overlap" / "scene.tif", 3_600, TILED, width=3_600)
    for number in range(FILES):
        write_large(work / "files" / f"{number:04d}.tif", 400, {"blockysize": 16}, width=384)
    b0 = {
        classes: saved(random_checkpoint(mit_config("b0", classes), seed=1), work / f"b0-{classes}")
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
    """Plans and runs with these arguments."""
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
        "bounded_by": receipt["bounded_by"],
    }


def _json(command: list[str]) -> Any:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


def ok(case: dict[str, Any]) -> bool:
    return abs(case["time_ratio"] - 1) <= OFF and case["held_bytes"] <= case["foretold_bytes"]


if __name__ == "__main__":
    main()

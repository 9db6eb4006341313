"""Damaged inputs: every one done or quarantined, no crash of the job, no wrong exit code?

    python -m bench.promises.mutations --work FOLDER [--seeds FOLDER] [--count 1000] [--runner ray]

Jobs of damaged files beside a dozen sound ones, whose rows must be those of a run without the
damaged. `--seeds` names a folder of real rasters to be damaged too. What a job left is kept in
FOLDER where something was wrong with it. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tests.support.checkpoints import save_small
from tests.support.damaged_files import FORMATS, write_good, write_mutants
from tests.support.outputs import rows

OPTIONS = ["--window", "64", "--stride", "48", "--scale", "0.0039"]
GOOD = 12
JOB_S = 1800
OUTCOMES = {"done", "partial", "quarantined"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", help="by default a tiny one with random weights")
    parser.add_argument("--seeds", type=Path, help="real rasters of less than 0.5 MB are taken")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runner", default="local")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    checkpoint = given.checkpoint or save_small(given.work / "checkpoint")
    report = campaign(
        given.work, checkpoint, (given.count, given.jobs), given.seed, given.runner, given.seeds
    )
    print(json.dumps(report))
    sys.exit(1 if report["problems"] else 0)


def campaign(
    work: Path,
    checkpoint: str,
    size: tuple[int, int],
    seed: int,
    runner: str = "local",
    seeds: Path | None = None,
) -> dict[str, Any]:
    """size: mutants in all, and jobs to divide them between."""
    count, jobs = size
    rng = random.Random(seed)
    sound = write_sound(work / "sound", seeds)
    command = ["--checkpoint", checkpoint, "--runner", runner, *OPTIONS]
    calm = write_good_files(work / "calm_in")
    run([str(calm), *command, "--output", str(work / "calm")])
    outcomes: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    problems: list[str] = []
    took: list[dict[str, Any]] = []
    for number in range(jobs):
        folder, out = work / f"in{number}", work / f"out{number}"
        shutil.rmtree(out, ignore_errors=True)
        good = {path.name for path in write_good_files(folder).iterdir()}
        mutants = write_mutants(folder, count // jobs, sound, rng)
        result = run([str(folder), *command, "--output", str(out)])
        wrong = check(result, out, work / "calm", good, set(mutants))
        if not wrong:
            for row in rows(out, "scenes").to_pylist():
                if row["scene_id"] in mutants:
                    for name in mutants[row["scene_id"]]:
                        outcomes.setdefault(name, Counter())[row["status"]] += 1
            failures = rows(out, "quarantine").to_pylist()
            distinct = {(f["scene_id"], f"{f['stage']}: {f['error']}") for f in failures}
            errors.update(error for _, error in distinct)
            shutil.rmtree(folder)
            shutil.rmtree(out)
        problems += [f"job {number}: {text}" for text in wrong]
        took.append({key: result[key] for key in ("seconds", "peak_bytes")})
        print(f"job {number}: {took[-1]} {wrong or 'as it should be'}", file=sys.stderr, flush=True)
    return {
        "mutants": count // jobs * jobs,
        "good_files_per_job": GOOD,
        "runner": runner,
        "seed": seed,
        "sound": sorted(path.name for _, path in sound),
        "outcomes": {name: dict(some) for name, some in sorted(outcomes.items())},
        "quarantined_for": dict(errors.most_common()),
        "jobs": took,
        "problems": problems,
    }


def check(
    result: dict[str, Any], out: Path, calm: Path, good: set[str], mutants: set[str]
) -> list[str]:
    """What is wrong with a job that has ended."""
    if result["code"] not in (0, 3):
        return [f"exit code {result['code']}: {result['stderr'][-500:]}"]
    wrong = []
    if "Traceback" in result["stderr"]:
        wrong.append(f"a traceback: {result['stderr'][-500:]}")
    scenes = rows(out, "scenes").to_pylist()
    if Counter(row["scene_id"] for row in scenes) != Counter(good | mutants):
        wrong.append("not every input is in `scenes` exactly once")
    failures = rows(out, "quarantine").to_pylist()
    failed = {row["scene_id"] for row in failures}
    for row in scenes:
        name, status = row["scene_id"], row["status"]
        if status not in OUTCOMES or (status == "done") == (name in failed):
            wrong.append(f"{name}: is {status}, quarantine says {name in failed}")
    wrong += [
        f"{f['scene_id']}: a message that does not name it in one line: {f['message']!r}"
        for f in failures
        if f["scene_id"] not in f["message"] or "\n" in f["message"]
    ]
    for table in ("masks", "statistics"):
        mine, theirs = rows(out, table), rows(calm, table)
        mine = mine.filter(pc.is_in(mine["scene_id"], theirs["scene_id"].unique()))
        if not mine.equals(theirs):
            wrong.append(f"{table}: rows of sound files differ")
    return wrong


def run(arguments: list[str]) -> dict[str, Any]:
    """`swath run`: exit code, stderr, seconds and the peak memory of its largest process."""
    began = time.monotonic()
    with subprocess.Popen(
        ["timeout", str(JOB_S), sys.executable, "-m", "jobs.cli", "run", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        assert process.stderr
        stderr = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "code": process.returncode,
        "stderr": stderr,
        "seconds": round(time.monotonic() - began, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def write_sound(folder: Path, seeds: Path | None) -> list[tuple[str, Path]]:
    """What is damaged: format and path."""
    folder.mkdir(parents=True, exist_ok=True)
    sound = []
    for number, (form, (suffix, _)) in enumerate(FORMATS.items()):
        for variant in range(4):
            path = folder / f"{form}{variant}.{suffix}"
            write_good(path, form, 100 * variant + number)
            sound.append((form, path))
    for path in sorted(seeds.iterdir()) if seeds else ():
        if path.suffix in (".tif", ".jp2") and path.stat().st_size < 500_000:
            sound.append(("real", path))
    return sound


def write_good_files(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, form in enumerate((list(FORMATS) * 2)[:GOOD]):
        write_good(folder / f"good{number:02}.{FORMATS[form][0]}", form, 1000 + number)
    return folder


if __name__ == "__main__":
    main()

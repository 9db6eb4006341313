"""Does every damaged input end as done, partial or quarantined, without a crash or wrong exit code?

    python -m bench.promises.mutations --work FOLDER [--seeds FOLDER] [--count 1000] [--runner ray]

Each job has damaged files beside a dozen sound ones, whose rows must be those of a run without the
damaged files. `--seeds` names a folder of real rasters to damage as well. Quarantined files of
which rasterio reads every value and mask of the sound one are listed. The output of a job with
problems is kept in FOLDER. The last line is one JSON document. Exit code 1: there were problems.
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

from pipeline.processes.sandbox import Limits, Returned, run_in_sandbox
from tests.support.checkpoints import save_small
from tests.support.damaged_files import FORMATS, has_all_pixels, write_good, write_mutants
from tests.support.outputs import rows

OPTIONS = ["--window", "64", "--stride", "48", "--scale", "0.0039"]
GOOD = 12
JOB_S = 1800
OUTCOMES = {"done", "partial", "quarantined"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", help="by default a tiny one with random weights")
    parser.add_argument(
        "--seeds", type=Path, help="folder of real rasters; those below 0.5 MB are used"
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runner", default="local")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    checkpoint = options.checkpoint or save_small(options.work / "checkpoint")
    report = campaign(
        options.work,
        checkpoint,
        (options.count, options.jobs),
        options.seed,
        options.runner,
        options.seeds,
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
    """Run the jobs and return their record. size: numbers of damaged files and of jobs."""
    count, jobs = size
    rng = random.Random(seed)
    sound = write_sound(work / "sound", seeds)
    command = ["--checkpoint", checkpoint, "--runner", runner, *OPTIONS]
    calm = write_good_files(work / "calm_in")
    run([str(calm), *command, "--output", str(work / "calm")])
    outcomes: dict[str, Counter[str]] = {}
    errors: Counter[str] = Counter()
    whole: list[str] = []
    problems: list[str] = []
    costs: list[dict[str, Any]] = []
    for number in range(jobs):
        folder, out = work / f"in{number}", work / f"out{number}"
        shutil.rmtree(out, ignore_errors=True)
        good = {path.name for path in write_good_files(folder).iterdir()}
        mutants = write_mutants(folder, count // jobs, sound, rng)
        result = run([str(folder), *command, "--output", str(out)])
        job_problems = check(result, out, work / "calm", good, set(mutants))
        if not job_problems:
            for row in rows(out, "scenes").to_pylist():
                if row["scene_id"] in mutants:
                    for name in mutants[row["scene_id"]]:
                        outcomes.setdefault(name, Counter())[row["status"]] += 1
            failures = rows(out, "quarantine").to_pylist()
            distinct = {(f["scene_id"], f"{f['stage']}: {f['error']}") for f in failures}
            errors.update(error for _, error in distinct)
            whole += quarantined_whole(folder, sound, failures)
            shutil.rmtree(folder)
            shutil.rmtree(out)
        problems += [f"job {number}: {text}" for text in job_problems]
        costs.append({key: result[key] for key in ("seconds", "peak_bytes")})
        print(
            f"job {number}: {costs[-1]} {job_problems or 'as it should be'}",
            file=sys.stderr,
            flush=True,
        )
    return {
        "mutants": count // jobs * jobs,
        "good_files_per_job": GOOD,
        "runner": runner,
        "seed": seed,
        "sound": sorted(path.name for _, path in sound),
        "outcomes": {name: dict(counts) for name, counts in sorted(outcomes.items())},
        "quarantined_for": dict(errors.most_common()),
        "quarantined_with_all_pixels": whole,
        "jobs": costs,
        "problems": problems,
    }


def check(
    result: dict[str, Any], out: Path, calm: Path, good: set[str], mutants: set[str]
) -> list[str]:
    """The problems of a finished job, one line each."""
    if result["code"] not in (0, 3):
        return [f"exit code {result['code']}: {result['stderr'][-500:]}"]
    job_problems = []
    if "Traceback" in result["stderr"]:
        job_problems.append(f"a traceback: {result['stderr'][-500:]}")
    scenes = rows(out, "scenes").to_pylist()
    if Counter(row["scene_id"] for row in scenes) != Counter(good | mutants):
        job_problems.append("not every input is in `scenes` exactly once")
    failures = rows(out, "quarantine").to_pylist()
    failed = {row["scene_id"] for row in failures}
    for row in scenes:
        name, status = row["scene_id"], row["status"]
        if status not in OUTCOMES or (status == "done") == (name in failed):
            job_problems.append(f"{name}: is {status}, quarantine says {name in failed}")
    job_problems += [
        f"{f['scene_id']}: a message that does not name it in one line: {f['message']!r}"
        for f in failures
        if f["scene_id"] not in f["message"] or "\n" in f["message"]
    ]
    for table in ("masks", "statistics"):
        actual, expected = rows(out, table), rows(calm, table)
        actual = actual.filter(pc.is_in(actual["scene_id"], expected["scene_id"].unique()))
        if not actual.equals(expected):
            job_problems.append(f"{table}: rows of sound files differ")
    return job_problems


def quarantined_whole(
    folder: Path, sound: list[tuple[str, Path]], failures: list[dict[str, Any]]
) -> list[str]:
    """The messages of the files that are quarantined although rasterio reads all of them."""
    messages = {failure["scene_id"]: failure["message"] for failure in failures}
    pairs = [(sound[int(name[:4]) % len(sound)][1], folder / name) for name in messages]
    limits = Limits(processes=1, threads=1, item_s=60, memory_bytes=2 * 10**9)
    outcomes = run_in_sandbox(has_all_pixels, pairs, limits)
    return [
        messages[pairs[index][1].name]
        for index, outcome in outcomes
        if isinstance(outcome, Returned) and outcome.value
    ]


def run(arguments: list[str]) -> dict[str, Any]:
    """Run `swath run`. Returns exit code, stderr, seconds and the peak of its largest process."""
    started = time.monotonic()
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
        "seconds": round(time.monotonic() - started, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def write_sound(folder: Path, seeds: Path | None) -> list[tuple[str, Path]]:
    """Write the files that will be damaged, and return the format and path of each."""
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

"""Does a run that is killed at random moments come out any different?

    python -m bench.promises.kills INPUT... --checkpoint C --work FOLDER [--kills 10] [--runner ray]
        [further options of run]

Runs the job once undisturbed, then again with `kill -9` of its whole process tree at random
moments, each followed by the same command. Half of the kills wait for a phase that is too short to
hit by chance, such as a table or a commit that has just appeared. The last line is one JSON
document. Exit code 0: the rows are the same, nothing was computed twice and no file is left over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.outputs import differences, outcomes, recomputed_by_last, stray_files

MARK = "SWATH_KILL_MARK"
Moment = Callable[[Path], bool]
PHASES: dict[str, Moment] = {
    "planned": lambda out: any((out / "plan").glob("*.json")),
    "unit": lambda out: any(out.glob("work/*/*.parquet")),
    "writing a unit": lambda out: any(out.glob("work/*/.*.tmp")),
    "writing a table": lambda out: any(out.glob("masks/.*.tmp")),
    "tables, no commit": lambda out: any((out / "masks").glob("*.parquet")),
    "commit, no clean-up": lambda out: any((out / "commits").glob("*.json")),
}
"""Conditions that a busy loop waits for. Every other kill comes at a random moment instead."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--runner", default="ray")
    parser.add_argument("--seed", type=int, default=0)
    given, options = parser.parse_known_args()
    command = [*given.inputs, "--checkpoint", given.checkpoint, "--runner", given.runner]
    report = campaign(command + options, given.work, given.kills, given.seed)
    print(json.dumps(report))
    sys.exit(0 if ok(report) else 1)


def ok(report: dict[str, Any]) -> bool:
    return report["identical"] and not any(report["recomputed"]) and not report["stray_files"]


def campaign(command: list[str], work: Path, kills: int, seed: int) -> dict[str, Any]:
    """Run `swath run *command` undisturbed and disturbed, and return what was hit and the result.

    A disturbed job is killed until it happens to finish; then the next one starts.
    """
    calm = work / "calm"
    started = time.monotonic()
    wait(start(command, calm))
    calm_s = time.monotonic() - started
    rng = random.Random(seed)
    hits: list[dict[str, object]] = []
    jobs: list[dict[str, Any]] = []
    while len(hits) < kills:
        out = work / f"job{len(jobs)}"
        recomputed = 0
        while len(hits) < kills and not finished(out):
            before = outcomes(out)
            hit = kill_once(command, out, rng, len(hits), calm_s)
            if hit is None:  # it finished before the moment came
                recomputed += recomputed_by_last(out, before)
                continue
            hits.append(hit)
            print(f"kill {len(hits)} of {kills}: {hit}", file=sys.stderr, flush=True)
        before = outcomes(out)
        wait(start(command, out))
        recomputed += recomputed_by_last(out, before)
        jobs.append(
            {
                "recomputed": recomputed,
                "identical": not differences(calm, out),
                "stray_files": stray_files(out),
            }
        )
    return {
        "kills": hits,
        "jobs": len(jobs),
        "undisturbed_s": round(calm_s, 1),
        "identical": all(job["identical"] for job in jobs),
        "recomputed": [job["recomputed"] for job in jobs],
        "stray_files": [job["stray_files"] for job in jobs if job["stray_files"]],
    }


def finished(out: Path) -> bool:
    plan = [path.stem for path in out.glob("plan/*.json")]
    return bool(plan) and all((out / "commits" / f"{shard}.json").exists() for shard in plan)


def kill_once(
    command: list[str], out: Path, rng: random.Random, number: int, calm_s: float
) -> dict[str, object] | None:
    """Kill one run. Returns the phase, and the number of units that had an outcome by then; None if
    the run finished by itself."""
    names = list(PHASES)
    phase = names[number // 2 % len(names)] if number % 2 else "random"
    reached = PHASES.get(phase, never)
    if reached(out):  # by an earlier run: the kill would hit the very start
        phase, reached = "random", never
    process, mark = start(command, out)
    within_s = rng.uniform(0.2, 1.0) * calm_s if phase == "random" else 600
    deadline = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < deadline and not reached(out):
        time.sleep(0.0005)
    ended = process.poll() is not None
    kill_tree(mark)
    process.communicate()
    return None if ended else {"phase": phase, "units_done": outcomes(out)}


def never(_: Path) -> bool:
    return False


def start(command: list[str], out: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start `swath run`, marked so that every process it starts can be found."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", "run", *command, "--output", str(out)],
        env={**os.environ, MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    return process, mark


def wait(started: tuple[subprocess.Popen[bytes], str]) -> None:
    """Wait until the run has succeeded; exit if it fails."""
    process, mark = started
    _, errors = process.communicate()
    kill_tree(mark)  # Ray's processes need a moment to notice that their driver is gone
    if process.returncode != 0:
        sys.exit(f"run failed with {process.returncode}: {errors.decode()[-2000:]}")


def kill_tree(mark: str) -> None:
    """Send SIGKILL to every process that carries the mark, until there is none."""
    while pids := processes(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def processes(mark: str) -> list[int]:
    """Ids of the processes that carry the mark: those that a run started, and their children."""
    wanted = f"{MARK}={mark}".encode()
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if has(pid, wanted)]


def has(pid: int, wanted: bytes) -> bool:
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


if __name__ == "__main__":
    main()

"""How long from the command to the answer, for one small image, in units of `import torch`?

    python -m bench.speed.startup --work FOLDER [--rounds 5] [--before CHECKOUT] [--results PATH]

`swath plan` and `swath run` by each runner, as whole commands, on 600 x 600 px with a network of
few channels; `--before`: also those of another checkout of Swath, with this Python. All take turns
with `import torch`, so that a ratio is of the same minute. The lower quartile of the ratios counts:
what else the machine does only adds to them. The last line is one JSON document. Exit code 0: plan
and run --runner auto are within LIMITS.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.support.rounds import Duration, in_turns, machine, spread
from tests.support.checkpoints import save_small

LIMITS = {"plan": 1.8, "run auto": 2.2}
"""Largest ratio to `import torch`, by side."""
TORCH = "import torch"
RUNNERS = ("auto", "local", "ray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout of Swath")
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)
    Image.fromarray(pixels).save(options.work / "image.png")
    save_small(options.work / "model")
    sides = commands(options.work, Path.cwd(), "", RUNNERS)
    if options.before:
        sides |= commands(options.work, options.before, " before", ("local", "ray"))
    for run_once in sides.values():
        run_once()  # machine code is compiled once per machine
    durations = in_turns(sides, options.rounds)
    report = summary(durations) | {"startup_s": starts(options.work)}
    document = json.dumps({**machine("cpu", os.cpu_count() or 1), **report})
    if options.results:
        options.results.write_text(document + "\n")
    print(document)
    ratios = report["times_import_torch"]
    sys.exit(any(ratios[side]["lower_quartile"] > limit for side, limit in LIMITS.items()))


def commands(
    work: Path, checkout: Path, suffix: str, runners: tuple[str, ...]
) -> dict[str, Callable[[], Duration]]:
    """The sides of one checkout: functions that run a whole command and time it."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    swath = [sys.executable, "-m", "jobs.cli"]
    job = [str(work / "image.png"), "--checkpoint", str(work / "model"), "--window", "512"]

    def timed_command(words: list[str], out: Path | None = None) -> Callable[[], Duration]:
        def run_once() -> Duration:
            if out:
                shutil.rmtree(out, ignore_errors=True)
            started_s = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True, env=environment, cwd=checkout)
            return Duration(0.0, time.perf_counter() - started_s)

        return run_once

    sides = {f"plan{suffix}": timed_command([*swath, "plan", *job])}
    for runner in runners:
        out = work / f"out-{runner}{suffix.strip()}"
        words = [*swath, "run", *job, "--output", str(out), "--runner", runner]
        sides[f"run {runner}{suffix}"] = timed_command(words, out)
    if not suffix:
        sides[TORCH] = timed_command([sys.executable, "-c", "import torch"])
    return sides


def summary(durations: Mapping[str, list[Duration]]) -> dict[str, Any]:
    """Seconds of each side, and their ratios to `import torch` of the same round."""
    seconds = {name: [turn.wall_s for turn in turns] for name, turns in durations.items()}
    ratios = {
        name: [one / torch for one, torch in zip(values, seconds[TORCH], strict=True)]
        for name, values in seconds.items()
    }
    return {
        "rounds": len(seconds[TORCH]),
        "wall_s": {name: spread(values) for name, values in seconds.items()},
        "times_import_torch": {
            name: {
                "lower_quartile": round(statistics.quantiles(values, n=4)[0], 2),
                "median": round(statistics.median(values), 2),
            }
            for name, values in ratios.items()
            if name != TORCH
        },
    }


def starts(work: Path) -> dict[str, Any]:
    """Where the last run of each runner says that its start went, in seconds."""
    found = {}
    for out in sorted(work.glob("out-*")):
        receipt = json.loads(max((out / "runs").glob("*.json")).read_text())
        parts = {part: round(s, 2) for part, s in receipt.get("startup", {}).items()}
        found[out.name] = {"all": round(receipt["startup_s"], 2), **parts}
    return found


if __name__ == "__main__":
    main()

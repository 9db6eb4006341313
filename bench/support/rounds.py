"""Sides that take turns on one machine, and the ratios of their medians."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_RESAMPLES = 4000


@dataclass(frozen=True)
class Duration:
    """Seconds of one turn: CPU time of all threads, and wall time."""

    cpu_s: float
    wall_s: float


def timed(turn: Callable[[], object]) -> Duration:
    """Run a turn and return its duration, on a GPU until the device has finished."""
    finish()
    cpu, wall = time.process_time(), time.perf_counter()
    turn()
    finish()
    return Duration(time.process_time() - cpu, time.perf_counter() - wall)


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def in_turns(sides: Mapping[str, Callable[[], Duration]], rounds: int) -> dict[str, list[Duration]]:
    """Run every side once per round, each round starting with another: drift affects all alike."""
    names = list(sides)
    durations: dict[str, list[Duration]] = {name: [] for name in names}
    for number in range(rounds):
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            durations[name].append(sides[name]())
            text = f"{durations[name][-1].wall_s:.3f} s, CPU {durations[name][-1].cpu_s:.3f} s"
            print(f"round {number + 1} of {rounds}: {name}: {text}", file=sys.stderr, flush=True)
    return durations


def spread(values: list[float]) -> dict[str, float]:
    named = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 5) for name, value in named.items()}


def times_faster(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """The ratio of the medians. low and high: its 95 % interval by a bootstrap over the rounds."""
    chance = random.Random(0)
    ratios = []
    for _ in range(_RESAMPLES):
        rounds = chance.choices(range(len(ours)), k=len(ours))
        ratios.append(_ratio([theirs[n] for n in rounds], [ours[n] for n in rounds]))
    ratios.sort()
    edge = int(0.025 * _RESAMPLES)
    named = {"median": _ratio(theirs, ours), "low": ratios[edge], "high": ratios[-edge - 1]}
    return {name: round(value, 3) for name, value in named.items()}


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(theirs) / statistics.median(ours)


def machine(device: str, threads: int) -> dict[str, Any]:
    """Device, vector extensions, threads and versions of a measurement, for its results file."""
    import transformers  # noqa: PLC0415  takes seconds

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.replace("\t", "").split(": ", 1) for line in lines if ": " in line)
    wide = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8"}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else fields["model name"],
        "cpu_flags": sorted(wide & set(fields["flags"].split())),
        "threads": threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

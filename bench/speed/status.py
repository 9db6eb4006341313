"""How long does `swath status` take on an OUT whose cluster is gone, and how large is its plan?

    python -m bench.speed.status --work FOLDER [--units 100000] [--turns 7] [--results PATH]

Two outputs of this many units are made on local disk, then copied to a real S3 server. `bundles`:
many scenes of one window, several to a unit; `blocks`: few scenes of 4,096 units each. Seven tenths
of the shards are committed, with quarantined blocks in every tenth of these; in four more every
second unit has its file; the others have not been started. There are receipts of three runs that
were stopped early. tests/support/unfinished_outputs.py says what is real in these outputs and what
is not. Outputs that an earlier call made in FOLDER are used again.

Measured: the command as a process, in turns with the same command on an output of one unit, whose
time is that of start-up; and reading the plan as a driver does. The last line is one JSON document.
Exit code 0: the numbers were right each time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.support.rounds import machine, spread
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support import s3_server
from tests.support.unfinished_outputs import UnfinishedOutput, plan_shards, write_unfinished_output

HOLD = """
import json, pathlib, re, sys, time
from pipeline.output.layout import Output
output = Output.open(sys.argv[1])
def kilobytes(name):
    return int(re.search(name + r":\\s*(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
before, wall, cpu = kilobytes("VmRSS"), time.perf_counter(), time.process_time()
shards = list(output.shards())
took = time.perf_counter() - wall, time.process_time() - cpu
for shard in shards:
    for unit in shard.units:
        unit.unit_id
held, most = (1024 * (kilobytes(name) - before) for name in ("VmRSS", "VmHWM"))
print(json.dumps({"seconds": took[0], "cpu_s": took[1], "bytes": held, "most_bytes": most}))
"""
"""A program that holds the plan as a driver does, units and their names included."""
LAUNCH = """
import json, os, subprocess, sys, time
started = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
said = child.stdout.read()
_, state, used = os.wait4(child.pid, 0)
print(json.dumps({"wall_s": time.perf_counter() - started, "cpu_s": used.ru_utime + used.ru_stime,
    "bytes": used.ru_maxrss * 1024, "said": said, "code": os.waitstatus_to_exitcode(state)}))
"""
"""A small program that launches a command: a child's recorded peak is never below what its parent
holds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {**machine("cpu", 1), "outputs": []}
    shapes = {
        "bundles": plan_shards("bundles", options.units),
        "blocks": plan_shards("blocks", options.units),
    }
    shapes["one"] = plan_shards("blocks", 1, side_blocks=1)
    outs = [
        write_unfinished_output(str(options.work / shape), shards)
        for shape, shards in shapes.items()
    ]
    shapes.clear()
    print("outputs made", file=sys.stderr, flush=True)
    with s3_server.running() as server:
        server.make_bucket("status")
        client = s3_server.client()
        copies = [replace(out, url=f"s3://status/{Path(out.url).name}") for out in outs]
        for out, copy in zip(outs, copies, strict=True):
            client.put(out.url, copy.url, recursive=True)
        for *large, small in (outs, copies):
            for out in large:
                report["outputs"].append(measured(out, small, options.turns))
                print(json.dumps(report["outputs"][-1]), file=sys.stderr, flush=True)
    ok = all(line.pop("ok") for line in report["outputs"])
    document = json.dumps(report, indent=1)
    if options.results:
        options.results.write_text(document + "\n")
    print(json.dumps(report))
    sys.exit(0 if ok else 1)


def measured(out: UnfinishedOutput, small: UnfinishedOutput, turns: int) -> dict[str, Any]:
    """The record of the command on `out`, in turns with `small`, and of the plan held in memory."""
    turns_of: dict[str, list[dict[str, float]]] = {"command": [], "start-up": []}
    ok = True
    for _ in range(turns):
        for name, one in (("command", out), ("start-up", small)):
            command = ["-m", "jobs.cli", "status", one.url, "--format", "json"]
            stdout, numbers = process([sys.executable, *command])
            record = json.loads(stdout)
            errors = {
                k: (record[k], v) for k, v in one.expected.items() if abs(record[k] - v) > 1e-6
            }
            if errors:
                print(f"{one.url}: printed, expected: {errors}", file=sys.stderr)
            ok = ok and not errors
            turns_of[name].append(numbers)
    holding = [json.loads(process([sys.executable, "-c", HOLD, out.url])[0]) for _ in range(2)]
    units = out.expected["units"]
    medians = {key: statistics.median(one[key] for one in holding) for key in holding[0]}
    return {
        "ok": ok,
        "output": out.url if "://" in out.url else f"disk/{Path(out.url).name}",
        **{key: out.expected[key] for key in ("units", "shards", "scenes", "shards_published")},
        "units_waiting": out.waiting,
        **{name: summary(each) for name, each in turns_of.items()},
        "plan_megabytes": round(plan_bytes(out.url) / 1e6, 1),
        "plan_read_s": round(medians["seconds"], 2),
        "plan_read_cpu_s": round(medians["cpu_s"], 2),
        "plan_held_megabytes_per_100000_units": round(medians["bytes"] / units / 10, 1),
        "plan_most_megabytes_per_100000_units": round(medians["most_bytes"] / units / 10, 1),
    }


def summary(turns: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "wall_s": spread([one["wall_s"] for one in turns]),
        "cpu_s": spread([one["cpu_s"] for one in turns]),
        "peak_megabytes": round(max(one["bytes"] for one in turns) / 1e6),
    }


def process(command: list[str]) -> tuple[str, dict[str, float]]:
    """The stdout of a command, and what it took: `wall_s`, `cpu_s`, `bytes`."""
    launched = [sys.executable, "-c", LAUNCH, *command]
    done = subprocess.run(launched, stdout=subprocess.PIPE, text=True, check=True)
    numbers = json.loads(done.stdout)
    stdout: str = numbers.pop("said")
    if numbers.pop("code"):
        raise RuntimeError(f"{' '.join(command)} failed")
    return stdout, numbers


def plan_bytes(url: str) -> int:
    fs, path = DEFAULT_ACCESS.filesystem(url)
    return int(sum(fs.du(f"{path}/plan", total=False).values()))


if __name__ == "__main__":
    main()

"""How long `swath status` takes of an OUT whose cluster is gone, and what its plan weighs.

    python -m bench.speed.status --work FOLDER [--units 100000] [--turns 7] [--results PATH]

Two outputs of so many units, on local disk, then copied to a real S3 server. `bundles`: many scenes
of one window, several to a unit; `blocks`: few scenes of 4,096 units each. Seven tenths of the
shards are committed, with quarantined blocks in every tenth of these; in four more every second
unit has its file; the others have not begun. There are receipts of three runs that ended early.
What is real of them, and what is not, stands in unfinished.py. What an earlier call has made in
FOLDER is taken as it is.

Then the command as a process, in turns with the same on an output of one unit, which is what
start-up takes; and the reading of the plan as a driver holds it. The last line is one JSON
document. Exit code 0: the numbers were right each time.
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
from tests.support.unfinished_outputs import Made, made, planned

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
"""A process that holds the plan as a driver does, the units with their names."""
LAUNCH = """
import json, os, subprocess, sys, time
began = time.perf_counter()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
said = child.stdout.read()
_, state, used = os.wait4(child.pid, 0)
print(json.dumps({"wall_s": time.perf_counter() - began, "cpu_s": used.ru_utime + used.ru_stime,
    "bytes": used.ru_maxrss * 1024, "said": said, "code": os.waitstatus_to_exitcode(state)}))
"""
"""A process of its own: what a child has held at most is never less than what its parent holds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {**machine("cpu", 1), "outputs": []}
    shapes = {"bundles": planned("bundles", given.units), "blocks": planned("blocks", given.units)}
    shapes["one"] = planned("blocks", 1, side_blocks=1)
    outs = [made(str(given.work / shape), shards) for shape, shards in shapes.items()]
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
                report["outputs"].append(measured(out, small, given.turns))
                print(json.dumps(report["outputs"][-1]), file=sys.stderr, flush=True)
    ok = all(line.pop("ok") for line in report["outputs"])
    document = json.dumps(report, indent=1)
    if given.results:
        given.results.write_text(document + "\n")
    print(json.dumps(report))
    sys.exit(0 if ok else 1)


def measured(out: Made, small: Made, turns: int) -> dict[str, Any]:
    """The command in turns with that on the small output, then the plan as a driver holds it."""
    took: dict[str, list[dict[str, float]]] = {"command": [], "start-up": []}
    ok = True
    for _ in range(turns):
        for name, one in (("command", out), ("start-up", small)):
            command = ["-m", "jobs.cli", "status", one.url, "--format", "json"]
            said, numbers = process([sys.executable, *command])
            told = json.loads(said)
            wrong = {k: (told[k], v) for k, v in one.expected.items() if abs(told[k] - v) > 1e-6}
            if wrong:
                print(f"{one.url}: told, expected: {wrong}", file=sys.stderr)
            ok = ok and not wrong
            took[name].append(numbers)
    holding = [json.loads(process([sys.executable, "-c", HOLD, out.url])[0]) for _ in range(2)]
    units = out.expected["units"]
    middle = {key: statistics.median(one[key] for one in holding) for key in holding[0]}
    return {
        "ok": ok,
        "output": out.url if "://" in out.url else f"disk/{Path(out.url).name}",
        **{key: out.expected[key] for key in ("units", "shards", "scenes", "shards_published")},
        "units_waiting": out.waiting,
        **{name: summary(each) for name, each in took.items()},
        "plan_megabytes": round(plan_bytes(out.url) / 1e6, 1),
        "plan_read_s": round(middle["seconds"], 2),
        "plan_read_cpu_s": round(middle["cpu_s"], 2),
        "plan_held_megabytes_per_100000_units": round(middle["bytes"] / units / 10, 1),
        "plan_most_megabytes_per_100000_units": round(middle["most_bytes"] / units / 10, 1),
    }


def summary(took: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "wall_s": spread([one["wall_s"] for one in took]),
        "cpu_s": spread([one["cpu_s"] for one in took]),
        "peak_megabytes": round(max(one["bytes"] for one in took) / 1e6),
    }


def process(command: list[str]) -> tuple[str, dict[str, float]]:
    """What it said on stdout, and what it took."""
    launched = [sys.executable, "-c", LAUNCH, *command]
    done = subprocess.run(launched, stdout=subprocess.PIPE, text=True, check=True)
    numbers = json.loads(done.stdout)
    said: str = numbers.pop("said")
    if numbers.pop("code"):
        raise RuntimeError(f"{' '.join(command)} failed")
    return said, numbers


def plan_bytes(url: str) -> int:
    fs, path = DEFAULT_ACCESS.filesystem(url)
    return int(sum(fs.du(f"{path}/plan", total=False).values()))


if __name__ == "__main__":
    main()

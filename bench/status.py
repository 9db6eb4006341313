"""How long `swath status` takes of an OUT whose cluster is gone, and what its plan weighs.

    python bench/status.py --work FOLDER [--units 100000] [--turns 7] [--results PATH]

Two outputs of so many units, on local disk, then copied to a real S3 server. `bundles`: many scenes
of one window, several to a unit; `blocks`: few scenes of 4,096 units each. Seven tenths of the
shards are committed, with quarantined blocks in every tenth of these; in four more every second
unit has its file; the others have not begun. There are receipts of three runs that ended early.
What an earlier call has made in FOLDER is taken as it is.

Real: the plan (Planner, for MiT-B5 on a CPU), every record, through Output, and every file of a
unit that waits (Work.finish, with failures in every 50th). Made up: the headers, of which there are
no files, the classes of the waiting units, and that committed shards have no tables: status opens
none.

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests"))

import numpy as np
import s3server
from rounds import machine, spread

from pipeline.access import PLAIN
from pipeline.cost import Cost, Network
from pipeline.grid import mask_tiles
from pipeline.machine import Machine
from pipeline.memory import division_of
from pipeline.output import Output
from pipeline.plan import Planner
from pipeline.publish import _commit_record
from pipeline.receipt import Failure
from pipeline.scene import Block, Scene, Unit
from pipeline.settings import Execution, Settings
from pipeline.shard import Shard
from pipeline.stages import Work
from pipeline.terms import Job
from pipeline.unit import SegmentedUnit, Stitched

TILE_PX, CLASSES, WRITERS = 512, 150, 8
SIDE_BLOCKS = 64
B5 = Network(CLASSES, 145.3, 340_000_000, 550)
SETTINGS = Settings(batch=1)
COST = Cost(SETTINGS, Machine("cpu", 64, 10**12, tasks=128), B5)
NAMES = tuple(f"class {k}" for k in range(CLASSES))
JOB = Job(SETTINGS, "s3://models/b5", "0" * 64, "cpu", NAMES, (None,) * CLASSES)
COMMITTED, HALF_DONE = 0.7, 4
"""Share of the shards, and how many more."""
HOLD = """
import json, pathlib, re, sys, time
from pipeline.output import Output
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
    with s3server.running() as server:
        server.make_bucket("status")
        client = s3server.client()
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


@dataclass(frozen=True)
class Made:
    """An output, and what its status should be."""

    url: str
    expected: dict[str, Any]
    waiting: int
    """Units that have their file and are not published."""


def planner(shape: str) -> Planner:
    return Planner(COST, Execution(block=TILE_PX if shape == "blocks" else None))


def planned(shape: str, units: int, side_blocks: int = SIDE_BLOCKS) -> list[Shard]:
    """Shards of so many units, or a few more or less."""
    if shape == "blocks":
        count = max(1, round(units / side_blocks**2))
        scenes = [header(n, side_blocks * TILE_PX) for n in range(count)]
        return list(planner(shape).shards(scenes, (), 0))
    probe = planner(shape).shards([header(n, TILE_PX) for n in range(10_000)], (), 0)
    each = 10_000 / sum(len(shard.units) for shard in probe)
    scenes = [header(n, TILE_PX) for n in range(round(each * units))]
    return list(planner(shape).shards(scenes, (), 0))


def header(number: int, edge_px: int) -> Scene:
    """As `describe` makes one of a Sentinel-2 product in a bucket."""
    name = f"2026/11/{number % 28 + 1:02d}/S2B_MSIL2A_T33UUP_{number:07d}_TCI.tif"
    return Scene(
        scene_id=name,
        url=f"s3://imagery/sentinel-2/{name}",
        version=f'"{number:032x}"',
        sidecars=(),
        width=edge_px,
        height=edge_px,
        bands=(1, 2, 3),
        dtype="uint8",
        nodata=None,
        crs="EPSG:32633",
        transform=(10.0, 0.0, 399_960.0 + number, 0.0, -10.0, 5_800_020.0),
        datetime="2026-11-26T10:11:09+00:00",
        striped=False,
    )


def made(url: str, shards: list[Shard]) -> Made:
    """The output of a job whose cluster has died."""
    done = round(COMMITTED * len(shards))
    committed, half = shards[:done], shards[done : done + HALF_DONE]
    waiting = [unit for shard in half for unit in shard.units[::2]]
    failures = [
        failed(shard.units[::10]) if n % 10 == 0 else [] for n, shard in enumerate(committed)
    ]
    if not Path(url).exists():
        out = Output.create(url, JOB)
        out.append(shards)
        work = Work(url, PLAIN, JOB, division_of(COST, shards[0].units), 900.0)
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(partial(commit, out), committed, failures))
            list(pool.map(partial(finish, work), range(len(waiting)), waiting))
        for day in range(3):
            out.write_receipt(f"2026112{day}T000000.000000Z", receipt(url, day))
    ended = [unit for shard in committed for unit in shard.units] + waiting
    broken = [block for unit in waiting[::50] for block in unit.blocks[:1]]
    px = sum(b.core.pixels for b in broken) + sum(f.pixels for some in failures for f in some)
    expected = {
        "units": sum(len(shard.units) for shard in shards),
        "units_done": len(ended),
        "shards": len(shards),
        "shards_published": len(committed),
        "scenes": sum(len(shard.scenes) for shard in shards),
        "scenes_published": sum(len(shard.scenes) for shard in committed),
        "quarantined": sum(map(len, failures)),
        "quarantined_waiting": len(broken),
        "megapixels": sum(shard.pixels for shard in shards) / 1e6,
        "megapixels_done": (sum(unit.pixels for unit in ended) - px) / 1e6,
        "megapixels_quarantined": px / 1e6,
    }
    return Made(url, expected, len(waiting))


def commit(out: Output, shard: Shard, failures: list[Failure]) -> None:
    out.commit(shard.shard_id, _commit_record(shard, failures, []))


def failed(units: tuple[Unit, ...]) -> list[Failure]:
    return [failure(unit.blocks[0]) for unit in units]


def failure(block: Block) -> Failure:
    url = block.scene.url
    what = f"{url}: window {block.core} cannot be decoded (TIFFReadEncodedTile failed); replace it"
    return Failure(block.scene.scene_id, url, "read", str(block.core), "RasterioIOError", what)


def finish(work: Work, number: int, unit: Unit) -> None:
    """Of every 50th unit, the first block has failed."""
    blocks = [
        failure(b) if number % 50 == i == 0 else stitched(b) for i, b in enumerate(unit.blocks)
    ]
    work.finish(SegmentedUnit(unit, tuple(blocks), 1, 0.1, 9.5, 0))


def stitched(block: Block) -> Stitched:
    """Two classes, half and half."""
    core = block.core
    ids_HW = np.zeros((core.height, core.width), np.uint8)
    ids_HW[: core.height // 2] = 7
    samples_TK = np.zeros((sum(1 for _ in mask_tiles(core)), CLASSES), np.int64)
    samples_TK[:, [0, 7]] = 8192
    return Stitched(ids_HW, samples_TK * 50_000, samples_TK)


def receipt(url: str, day: int) -> dict[str, Any]:
    """What status tells of a run."""
    return {
        "started": f"2026-11-2{day}T00:00:00+00:00", "seconds": 3600.0, "ended": "stopped by hand",
        "output": url, "megapixels": 1000.0, "megapixels_per_s": 0.28, "bounded_by": "segment",
        "cost": None, "failures": [],
    }  # fmt: skip


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
    fs, path = PLAIN.filesystem(url)
    return int(sum(fs.du(f"{path}/plan", total=False).values()))


if __name__ == "__main__":
    main()

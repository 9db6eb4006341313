"""Does any process of a run hold more memory than the plan predicts?

    python -m bench.promises.memory --work FOLDER [--results PATH] [CASE...]

Cases: the demo; a scene of 20,000 x 20,000 px with the demo's network; a striped scene 20,000 px
wide with a small network of 150 classes. A peak is VmHWM, object store included. A process that
both reads and writes may take the larger of the two predictions. The last line is one JSON
document. Exit code 0: every process and all together stayed below their predictions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from bench.promises.same_rows import CHECKPOINT, ROOT, write_archive
from bench.support.processes import Process, Watch

MARK = "SWATH_MEMORY_MARK"
EDGE_PX, STRIPED_HEIGHT_PX = 20_000, 4_096
DESCRIBING_BYTES = 300_000_000
"""The limit of a process that reads headers: Python with rasterio, 100 MB, and the headers of eight
large scenes."""
TILED = {"tiled": True, "blockxsize": 512, "blockysize": 512}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="demo, scene or striped; default: all"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    report = {}
    for name, command in commands(options.work).items():
        if not options.cases or name in options.cases:
            report[name] = measured(command, options.work / f"out-{name}")
            print(name, table(report[name]), sep="\n", file=sys.stderr, flush=True)
    document = json.dumps(report)
    if options.results:
        options.results.write_text(document + "\n")
    print(document)
    sys.exit(0 if all(map(ok, report.values())) else 1)


def commands(work: Path) -> dict[str, list[str]]:
    """Write the inputs that are missing, and return the arguments of `swath run` by case."""
    coarse = ["--window", "512", "--stride", "512"]
    scene, striped = work / "scene" / "scene.tif", work / "striped" / "striped.tif"
    write_large(scene, EDGE_PX, TILED)
    write_large(striped, STRIPED_HEIGHT_PX, {"blockysize": 16})
    archive = work / "archive"
    if not archive.exists():
        write_archive(archive)
    demo = ["--checkpoint", str(CHECKPOINT)]
    return {
        "demo": [str(archive), *demo],
        "scene": [str(scene), *demo, *coarse],
        "striped": [str(striped), "--checkpoint", small_checkpoint(work / "small"), *coarse],
    }


def write_large(path: Path, height: int, layout: dict[str, Any], width: int = EDGE_PX) -> None:
    """Write blocks of random colors, uint8 RGB, strip by strip."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    profile = {
        **layout,
        **{"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8"},
        **{"compress": "deflate", "zlevel": 1, "crs": "EPSG:32633"},
        "transform": from_origin(300_000, 5_000_000, 10, 10),
    }
    with rasterio.open(path, "w", **profile) as file:
        for row in range(0, height, 512):
            rows = min(512, height - row)
            colors = rng.integers(0, 256, (3, -(-rows // 16), width // 16), dtype=np.uint8)
            pixels = colors.repeat(16, 1).repeat(16, 2)[:, :rows]
            file.write(pixels, window=Window(0, row, width, rows))


def small_checkpoint(folder: Path) -> str:
    from tests.support.checkpoints import save_small  # noqa: PLC0415

    return save_small(folder, classes=150)


def measured(command: list[str], out: Path) -> dict[str, Any]:
    """Run `swath plan` and `swath run` with these arguments, and return both sides."""
    shutil.rmtree(out, ignore_errors=True)
    swath = [sys.executable, "-m", "jobs.cli"]
    planned = subprocess.run(
        [*swath, "plan", *command, "--format", "json"],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    plan = json.loads(planned.stdout)
    mark, started = uuid.uuid4().hex, time.monotonic()
    with Watch(MARK, mark) as watch:
        run = subprocess.run(
            [*swath, "run", *command, "--output", str(out)],
            check=False,
            env={**os.environ, MARK: mark},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    if run.returncode:
        sys.exit(f"run failed with {run.returncode}: {run.stderr.decode()[-2000:]}")
    return {
        "command": [
            part.replace(str(out.parent), "WORK").replace(str(ROOT), ".") for part in command
        ],
        "seconds": round(time.monotonic() - started),
        "units": plan["units"],
        "replicas": plan["replicas"],
        "processes": compared(list(watch.processes.values()), plan["memory"]),
        "together": line(plan["memory"]["total"], watch.total_bytes, len(watch.processes)),
        "ray": sum(
            p.peak_bytes for p in watch.processes.values() if not allowed(p, plan["memory"])
        ),
    }


def compared(processes: list[Process], predicted: dict[str, int]) -> dict[str, Any]:
    """For each kind of process, the one that came closest to its prediction."""
    kinds: dict[str, list[tuple[float, int, int]]] = {}
    for process in processes:
        limit = allowed(process, predicted)
        if limit:
            kind = "+".join(sorted(process.roles & {*predicted, "describing"}))
            kinds.setdefault(kind, []).append(
                (process.peak_bytes / limit, limit, process.peak_bytes)
            )
    worst = {kind: (max(peaks), len(peaks)) for kind, peaks in kinds.items()}
    return {kind: line(limit, peak, count) for kind, ((_, limit, peak), count) in worst.items()}


def allowed(process: Process, predicted: dict[str, int]) -> int:
    """The bytes predicted for the process; 0 for Ray's own processes."""
    kinds = {**predicted, "describing": DESCRIBING_BYTES}
    store = predicted.get("object_store", 0)
    shares = {"replica", "reader", "writer"}
    bounds = [kinds[r] + (store if r in shares else 0) for r in process.roles if r in kinds]
    return max(bounds, default=0)


def line(predicted: int, peak: int, count: int) -> dict[str, float]:
    return {
        "predicted_bytes": predicted,
        "peak_bytes": peak,
        "ratio": round(peak / predicted, 2),
        "processes": count,
    }


def table(case: dict[str, Any]) -> str:
    lines = {**case["processes"], "together": case["together"]}
    return "\n".join(
        f"  {name:15} predicted {v['predicted_bytes'] / 1e6:7.0f} MB, measured"
        f" {v['peak_bytes'] / 1e6:7.0f} MB, ratio {v['ratio']:.2f} ({v['processes']} processes)"
        for name, v in lines.items()
    )


def ok(case: dict[str, Any]) -> bool:
    kinds = {kind for name in case["processes"] for kind in name.split("+")}
    lines = [*case["processes"].values(), case["together"]]
    return {"driver", "replica"} <= kinds and all(v["ratio"] <= 1 for v in lines)


if __name__ == "__main__":
    main()

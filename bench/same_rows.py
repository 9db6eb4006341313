"""One archive, segmented with every division of work that the options allow: the same rows?

    python bench/same_rows.py --work FOLDER

The archive is the demo's, with the whole picture beside it as one scene of several blocks. The
last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from outputs import differences, rows, stray_files

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "examples" / "bluemarble" / "checkpoint"
VARIANTS = {
    "local": ["--runner", "local"],
    "ray, 1 replica": ["--replicas", "1"],
    "ray, 2 replicas": ["--replicas", "2"],
    "ray, --block 1024": ["--block", "1024"],
    "ray, --block 4096": ["--block", "4096"],
    "ray, --block 1024, 2 replicas": ["--block", "1024", "--replicas", "2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    archive = write_archive(work / "archive")
    results = {}
    for number, (name, options) in enumerate(VARIANTS.items()):
        out = work / f"out{number}"
        shutil.rmtree(out, ignore_errors=True)
        began = time.monotonic()
        command = [archive, "--checkpoint", CHECKPOINT, "--output", out, *options]
        subprocess.run(
            [sys.executable, "-m", "jobs.cli", "run", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        receipt = json.loads(next((out / "runs").iterdir()).read_text())
        results[name] = {
            "differences": differences(work / "out0", out),
            "stray_files": stray_files(out),
            "units": receipt["units"],
            "windows_computed": receipt["windows_computed"],
            "seconds": round(time.monotonic() - began, 1),
        }
        print(name, results[name], file=sys.stderr, flush=True)
    counts = {table: rows(work / "out0", table).num_rows for table in ("masks", "statistics")}
    same = not any(r["differences"] or r["stray_files"] for r in results.values())
    print(json.dumps({"rows": counts, "same": same, "runs": results}))
    sys.exit(0 if same else 1)


def write_archive(folder: Path) -> Path:
    """The demo's tiles and the whole picture."""
    sys.path.insert(0, str(ROOT / "examples" / "bluemarble"))
    import bluemarble  # noqa: PLC0415

    bluemarble.write_archive(folder)
    bluemarble.write_tile(folder / "whole.tif", bluemarble.read_picture(), 0, 0)
    return folder


if __name__ == "__main__":
    main()

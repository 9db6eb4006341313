"""Does one archive give the same rows with every division of work that the options allow?

    python -m bench.promises.same_rows --work FOLDER

The archive is the demo's, with the whole picture beside it as one scene of several blocks. In one
run it is on a real S3 server, and so is the output. The last line is one JSON document. Exit code
0: the rows are the same and no file is left over.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support import s3_server
from tests.support.outputs import differences, receipts, rows, stray_files

ROOT = Path(__file__).parents[2]
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
        results[name] = segment(str(archive), str(out), options)
        results[name]["differences"] = differences(work / "out0", out)
        print(name, results[name], file=sys.stderr, flush=True)
    results["s3"] = on_s3(archive, work / "out0")
    print("s3", results["s3"], file=sys.stderr, flush=True)
    counts = {table: rows(work / "out0", table).num_rows for table in ("masks", "statistics")}
    same = not any(r["differences"] or r["stray_files"] for r in results.values())
    print(json.dumps({"rows": counts, "same": same, "runs": results}))
    sys.exit(0 if same else 1)


def segment(archive: str, out: str, options: list[str]) -> dict[str, Any]:
    """Run the archive with these options, and return its record."""
    started = time.monotonic()
    command = [archive, "--checkpoint", str(CHECKPOINT), "--output", out, *options]
    subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (receipt,) = receipts(out)
    return {
        "stray_files": stray_files(out),
        "units": receipt["units"],
        "windows_computed": receipt["windows_computed"],
        "seconds": round(time.monotonic() - started, 1),
    }


def on_s3(archive: Path, disk: Path) -> dict[str, Any]:
    """Run with input and output on a real S3 server. The rows may differ in their urls only."""
    with s3_server.running() as server:
        server.make_bucket("rows")
        fs = s3_server.client()
        for file in archive.iterdir():
            fs.put_file(str(file), f"rows/in/{file.name}")
        result = segment("s3://rows/in", "s3://rows/out", [])
        columns = differences(disk, "s3://rows/out")
        result["differences"] = [column for column in columns if column != "scenes.url"]
        result["server"] = server.name
    return result


def write_archive(folder: Path) -> Path:
    """Write the demo's tiles and the whole picture."""
    from examples.bluemarble import bluemarble  # noqa: PLC0415

    bluemarble.write_archive(folder)
    bluemarble.write_tile(folder / "whole.tif", bluemarble.read_picture(), 0, 0)
    return folder


if __name__ == "__main__":
    main()

"""How long does a run take to refuse what cannot work on a real S3 server, and what does it say?

    python -m bench.speed.refusals --work FOLDER [--results PATH]

A wrong secret, an unknown key, a missing bucket, a read-only bucket, a missing object: each ROUNDS
times, one after the other. The last line is one JSON document. Exit code 0: each was refused within
LIMIT_S, in one line without a secret.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.promises.same_rows import CHECKPOINT, write_archive
from tests.support import s3_server

ROUNDS = 3
LIMIT_S = 15.0
READING = "reading the checkpoint and the headers of the inputs ..."
"""The line of progress, which goes to stderr, too."""
WRONG_SECRET = "wrong-secret-wrong-secret-wrong-secret00"
READER = s3_server.Credentials("READERSKEY0000000001", "readers-own-secret-" + "1" * 21)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    archive = options.work / "archive"
    if not archive.exists():
        write_archive(archive)
    with s3_server.running() as server:
        assert isinstance(server, s3_server.Gateway), "moto takes any credentials"
        server.make_bucket("data")
        for file in archive.iterdir():
            s3_server.client().put_file(str(file), f"data/in/{file.name}")
        server.add_user("reader", READER)
        user = {"AWS": ["arn:aws:iam:::user/reader"]}
        allowed = s3_server.policy("data", user, "s3:GetObject", "s3:ListBucket")
        server.set_policy("data", allowed)
        report = {name: measured(server, *case) for name, case in cases(options.work).items()}
    document = json.dumps(report, indent=1)
    if options.results:
        options.results.write_text(document + "\n")
    print(document)
    sys.exit(0 if all(line["ok"] for line in report.values()) else 1)


def cases(work: Path) -> dict[str, tuple[str, str, Mapping[str, str]]]:
    """Input, output and changed variables of the environment, by case."""
    out = str(work / "refused")
    return {
        "wrong secret": ("s3://data/in", out, {"AWS_SECRET_ACCESS_KEY": WRONG_SECRET}),
        "unknown key": ("s3://data/in", out, {"AWS_ACCESS_KEY_ID": "NOBODYSKEY0000000001"}),
        "missing bucket": ("s3://missing/in", out, {}),
        "read-only bucket": ("s3://data/in", "s3://data/out", READER.environment()),
        "missing object": ("s3://data/in/nothing.tif", out, {}),
    }


def measured(
    server: s3_server.Server, source: str, out: str, changed: Mapping[str, str]
) -> dict[str, Any]:
    command = ["run", source, "--checkpoint", str(CHECKPOINT), "--output", out]
    seconds, message, ok = [], "", True
    for _ in range(ROUNDS):
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", *command],
            env={**os.environ, **server.environment(), **changed},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds.append(round(time.monotonic() - started, 1))
        *progress, message = done.stderr.splitlines()
        secrets = [server.credentials.secret, WRONG_SECRET, READER.secret]
        ok = ok and done.returncode == 2 and message.startswith("swath: error: ")
        ok = ok and progress == [READING] and seconds[-1] <= LIMIT_S
        ok = ok and not any(secret in done.stderr for secret in secrets)
    return {
        "ok": ok,
        "median_s": statistics.median(seconds),
        "most_s": max(seconds),
        "said": message,
    }


if __name__ == "__main__":
    main()

"""Runs docs/cluster.md as a reader would: the lines marked bash, in one shell, on a real S3 server.

    python -m tests.support.cluster_page FOLDER TILES

The demo's archive, cut down to TILES of its 18, is put where the page expects it, below FOLDER.
Exits with 0 if every line does and the rows are those of `--runner local`.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUT = "s3://demo/tables"
ISOLATED = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""A command prefix: a separate network, since Ray's nodes listen on every address and the page's
ports are fixed, and processes that end with the page, however it ends."""


def isolation_prefix() -> list[str]:
    """The prefix ISOLATED, or nothing if this user may not unshare namespaces."""
    if shutil.which(ISOLATED[0]) is None:
        return []
    return (
        []
        if subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode
        else ISOLATED
    )


def script() -> str:
    """The page's lines marked bash as one script that stops at the first failure."""
    page = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == page.count("```bash") > 5
    return "\n".join(["set -euo pipefail", "trap 'kill $(jobs -p) 2>&- || true' EXIT", *blocks])


def main(folder: Path, tiles: int) -> None:
    from examples.bluemarble import bluemarble  # noqa: PLC0415
    from tests.support import s3_server  # noqa: PLC0415
    from tests.support.outputs import differences, stray_files  # noqa: PLC0415

    raise_loopback()
    demo = folder / "examples" / "bluemarble"
    for extra in bluemarble.write_archive(demo / "work" / "archive")[tiles:]:
        extra.unlink()
    shutil.copytree(ROOT / "examples" / "bluemarble" / "checkpoint", demo / "checkpoint")
    with s3_server.running() as server:
        server.make_bucket("demo")
        run_timed("the page", ["bash", "-c", script()], folder)
        local = [sys.executable, "-m", "jobs.cli", "run", str(demo / "work" / "archive")]
        local += ["--checkpoint", str(demo / "checkpoint"), "--output", "local"]
        run_timed("the local run", [*local, "--runner", "local"], folder)
        assert set(differences(folder / "local", OUT)) == {"scenes.url"}
        assert stray_files(OUT) == []


def run_timed(name: str, command: list[str], folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    start = time.monotonic()
    subprocess.run(command, cwd=folder, env=variables, check=True)
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def raise_loopback() -> None:
    """Bring the loopback interface up: in a new network it is down, and the only one."""
    if [name for _, name in socket.if_nameindex()] == ["lo"]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            up = struct.pack("16sH", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
            fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

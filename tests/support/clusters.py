"""Ray clusters of other processes, on loopback and with a token, for runs that join them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TOKEN = "a" * 64
HEAD = """
import json, sys, ray
from ray._private import ray_constants

ray_constants.ENABLE_RAY_CLUSTER = False  # on loopback
options = json.loads(sys.argv[1])
context = ray.init(address="local", include_dashboard=False, log_to_driver=False, **options)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


def token_variables(token: str) -> dict[str, str]:
    """Environment variables of a process that has the token."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}


@contextmanager
def another_cluster(**options: object) -> Iterator[str]:
    """The address of a cluster of another process, which requires TOKEN; options: of `ray.init`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **token_variables(TOKEN)},
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.communicate(timeout=60)

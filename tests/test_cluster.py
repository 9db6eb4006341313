"""How a run gets to a Ray cluster, and what that leaves on the console and in the process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import TOKEN, another_cluster, with_token

ALONE_THEN_JOINED = """
import os, sys
from pipeline.cluster import connected, devices_of

def variables():
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_")}

if __name__ == "__main__":
    before = variables()
    with connected(None, 1, 1_000_000_000, 100_000_000):
        os.write(2, b"within\\n")
    assert variables() == before
    print(devices_of(sys.argv[1])[:2])
"""
REFUSED = """
import os, sys, ray
from pipeline.cluster import devices_of
from pipeline.errors import UsageError

address, ray.__version__, *tokens = sys.argv[1:]
for token in tokens:
    os.environ["RAY_AUTH_TOKEN"] = token
    try:
        devices_of(address)
    except UsageError as error:
        print(error)
"""
PASSED_ON = """
import os, sys
from pipeline.cluster import _no_greeting

try:
    with _no_greeting():
        os.write(2, b"[I] logging.cc:303: Set ray log level from environment variable X to 3\\n")
        os.write(2, b"a trouble\\n")
        print("another", file=sys.stderr)
        raise ValueError
except ValueError:
    os.write(2, b"after\\n")
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with another_cluster(num_cpus=4) as address:
        assert address.startswith("127.0.0.1:")
        yield address


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "-c", code, *arguments], {**os.environ, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env)


@pytest.mark.ray
def test_a_process_that_had_a_cluster_of_its_own_joins_another(
    cluster: str, tmp_path: Path
) -> None:
    """In silence, with the other one's token, and where it listens: on loopback alone."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    done = python(ALONE_THEN_JOINED, cluster, **variables)
    assert (done.stderr, done.stdout) == ("within\n", "('cpu', 2)\n")


@pytest.mark.ray
def test_a_cluster_that_does_not_take_us(cluster: str) -> None:
    """The remedy works in the same process, too: a version is compared once the token is right."""
    done = python(REFUSED, cluster, "9.9.9", "b" * 64, TOKEN, **with_token(""))
    wrong_token, wrong_version = done.stdout.splitlines()
    assert wrong_token.startswith(f"--address {cluster}: ")
    assert "if one runs, RAY_AUTH_TOKEN must be its token" in wrong_token
    assert wrong_version.startswith(f"--address {cluster}: ")
    assert "Ray: 9.9.9" in wrong_version


def test_what_else_is_said_meanwhile_is_passed_on() -> None:
    assert python(PASSED_ON).stderr == "a trouble\nanother\nafter\n"

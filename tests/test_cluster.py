"""What a run's own Ray cluster leaves on the console."""

from __future__ import annotations

import subprocess
import sys

import pytest

SILENT = """
import os
from pipeline.cluster import connected

if __name__ == "__main__":
    with connected(None, 1, 1_000_000_000, 100_000_000):
        os.write(2, b"within\\n")
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


def stderr_of(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.ray
def test_ray_starts_in_silence() -> None:
    assert stderr_of(SILENT) == "within\n"


def test_what_else_is_said_meanwhile_is_passed_on() -> None:
    assert stderr_of(PASSED_ON) == "a trouble\nanother\nafter\n"

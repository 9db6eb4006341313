"""Tests of Triton kernels, each in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys


def run_with_triton(module: str, function: str, interpret: str) -> None:
    """Call a function in a new process, since Triton reads TRITON_INTERPRET when it is imported."""
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": interpret}
    command = [sys.executable, "-c", f"from {module} import {function}; {function}()"]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr

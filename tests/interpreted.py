"""Tests of Triton kernels, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def in_triton(module: str, function: str, interpret: str) -> None:
    """Triton looks at TRITON_INTERPRET when it is imported."""
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": interpret}
    command = [sys.executable, "-c", f"import {module}; {module}.{function}()"]
    done = subprocess.run(
        command, cwd=HERE, env=environment, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

"""Compiles a function to machine code, once per machine where there is a folder to keep it in.

Compiling takes seconds, and every replica would do it as it starts. What is kept is only ever a
short cut: where it cannot be written or read, the function is compiled anew. numba's own choice, a
folder beside the source, may be read-only or shared by machines whose processors differ.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

OPTIONS = {"error_model": "numpy", "boundscheck": False, "nogil": True, "_nrt": False}
"""No fast mathematics, hence no fused multiplications. Without numba's runtime nothing can be
allocated, and no references are counted in the loops."""

inner = numba.njit(**OPTIONS)
"""For functions that compiled functions call."""

Compiled = Callable[..., None]


def compiled(
    function: Callable[..., None], types: str, call: Callable[[Compiled], None]
) -> Compiled:
    """The function as machine code for arguments of certain types, which `types` tells from others.
    `call` is given it, and calls it with such: compiled now, not in the middle of a job."""
    kept = _kept(function, types)
    if kept is not None:
        try:
            call(kept)
        except Exception:  # noqa: BLE001  a torn file of the cache, a full disk: whatever it is
            kept = None
    if kept is None:
        kept = numba.njit(**OPTIONS)(function)
        call(kept)
    return kept


def _kept(function: Callable[..., None], types: str) -> Compiled | None:
    """With numba's cache; None where there is no folder for it."""
    given = numba.config.CACHE_DIR
    try:
        state = _state(Path(function.__code__.co_filename).parent, types)
        folder = Path(given or _of_user()) / "swath" / state
        folder.mkdir(parents=True, exist_ok=True)
        numba.config.CACHE_DIR = str(folder)
        return numba.njit(**OPTIONS, cache=True)(function)
    except (OSError, RuntimeError):  # numba's RuntimeError: no folder can be written to
        return None
    finally:
        numba.config.CACHE_DIR = given


def _of_user() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _state(sources: Path, types: str) -> str:
    """Of all that the machine code depends on. numba looks at the function's own file only, and two
    processes that write other code into one folder at once would have theirs mixed up."""
    state = hashlib.sha256(f"{numba.__version__} {types} {binding.get_host_cpu_name()}".encode())
    state.update(binding.get_host_cpu_features().flatten().encode())
    for source in (*sorted(sources.glob("blend*.py")), sources / "unit.py"):
        state.update(source.read_bytes())
    return state.hexdigest()[:16]

"""Compiles a function to machine code, once per machine where there is a folder to keep it in.

Compiling takes seconds, and every replica would do it as it starts. What is kept is only ever a
short cut: where it cannot be written or read, the function is compiled anew. numba's own choice, a
folder beside the source, may be read-only or shared by machines whose processors differ.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

OPTIONS = {"error_model": "numpy", "boundscheck": False, "nogil": True}
"""No fast mathematics, hence no fused multiplications."""

_njit: Any = numba.njit
_config: Any = numba.config
inner = _njit(**OPTIONS)
"""For functions that compiled functions call."""

LOCK = threading.RLock()
"""Held while something is compiled: where numba keeps code is a setting of the whole process."""

Call = Callable[..., None]


class Compiled:
    """A function as machine code, made when it is first called with arguments of some types."""

    def __init__(self, function: Call) -> None:
        self._function = function
        self._codes: dict[str, Any] = {}

    def __call__(self, types: str, *arguments: Any) -> None:
        """`types` tells these arguments' types from others."""
        if types in self._codes:
            self._codes[types](*arguments)
            return
        code = _kept(self._function, types)
        try:
            code(*arguments)
        except Exception:  # noqa: BLE001  a torn file of the cache, a full disk: whatever it is
            code = _njit(**OPTIONS)(self._function)
            code(*arguments)
        self._codes[types] = code

    def variants(self) -> int:
        """How many have been compiled or taken from the cache."""
        return sum(len(code.signatures) for code in self._codes.values())


def _kept(function: Call, types: str) -> Any:
    """With numba's cache, or without where there is no folder for it."""
    try:
        with cache_folder(function, types):
            return _njit(**OPTIONS, cache=True)(function)
    except (OSError, RuntimeError):  # RuntimeError: no home, or numba can write to no folder
        return _njit(**OPTIONS)(function)


@contextmanager
def cache_folder(function: Call, types: str) -> Iterator[None]:
    """What is decorated inside is kept in a folder for this processor and state of our sources.

    Raises OSError and RuntimeError where there can be none.
    """
    with LOCK:
        given = _config.CACHE_DIR
        try:
            folder = Path(given or _of_user()) / "swath" / _state(function, types)
            folder.mkdir(parents=True, exist_ok=True)
            _config.CACHE_DIR = str(folder)
            yield
        finally:
            _config.CACHE_DIR = given


def _of_user() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _state(function: Call, types: str) -> str:
    """Of all that the machine code depends on. numba looks at the function's own file only, and two
    processes that write other code into one folder at once would have theirs mixed up."""
    state = hashlib.sha256(f"{numba.__version__} {types} {binding.get_host_cpu_name()}".encode())
    state.update((_config.CPU_FEATURES or "").encode())
    own, home = Path(__file__).parent, Path(function.__code__.co_filename).parent
    for source in sorted({*own.glob("*.py"), *home.glob("*.py")}):
        state.update(source.read_bytes())
    return state.hexdigest()[:16]


def _with_wide_vectors() -> None:
    """LLVM takes half of AVX-512's width by itself; our loops are a quarter faster in the whole."""
    features = binding.get_host_cpu_features()
    if _config.CPU_FEATURES is None and platform.machine() == "x86_64" and features["avx512f"]:
        _config.CPU_NAME = binding.get_host_cpu_name()
        _config.CPU_FEATURES = features.flatten() + ",-prefer-256-bit"


_with_wide_vectors()

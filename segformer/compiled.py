"""Compiles a function to machine code, once per machine if there is a folder to keep it in.

Compiling takes seconds, and every replica would do it as it starts. The cache is only ever a short
cut: if it cannot be written or read, the function is compiled again. numba's own choice, a folder
beside the source, may be read-only or shared by machines whose processors differ; and its key, the
text of one file, misses the constants and functions that come from other files.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import platform
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

from segformer.code_sources import sources_and_constants

OPTIONS = {"error_model": "numpy", "boundscheck": False, "nogil": True}
"""No fast mathematics, hence no fused multiplications."""

_njit: Any = numba.njit
_config: Any = numba.config
inner = _njit(**OPTIONS)
"""Decorator for functions that compiled functions call."""

LOCK = threading.RLock()
"""Held while something is compiled: numba's folder for machine code is a setting of the whole
process."""

Call = Callable[..., None]


class Compiled:
    """A function as machine code, made when it is first called with arguments of some types."""

    def __init__(self, function: Call) -> None:
        self._function = function
        self._codes: dict[str, Any] = {}

    def __call__(self, types: str, *arguments: Any) -> None:
        """Call the function. `types` is a name for the types of these arguments: another one for
        others."""
        if types in self._codes:
            self._codes[types](*arguments)
            return
        code = _with_cache(self._function, f"{types} {_fields(arguments)}")
        try:
            code(*arguments)
        except Exception:  # noqa: BLE001  a torn file of the cache, a full disk: whatever it is
            code = _njit(**OPTIONS)(self._function)
            code(*arguments)
        self._codes[types] = code

    def variants(self) -> int:
        """The number of variants that have been compiled or taken from the cache."""
        return sum(len(code.signatures) for code in self._codes.values())


def _with_cache(function: Call, types: str) -> Any:
    """The function compiled by way of numba's cache, or without it if there is no folder."""
    try:
        with cache_folder(function, types):
            return _njit(**OPTIONS, cache=True)(function)
    except (OSError, RuntimeError):  # RuntimeError: no home, or numba can write to no folder
        return _njit(**OPTIONS)(function)


def _fields(value: Any) -> Any:
    """The fields of named tuples, in which machine code finds values by their place."""
    if not isinstance(value, tuple):
        return None
    return getattr(type(value), "_fields", ()), *map(_fields, value)


@contextmanager
def cache_folder(
    function: Call, types: str, options: Mapping[str, Any] = OPTIONS
) -> Iterator[Path]:
    """A folder for the machine code of a function on this processor, which numba's decorators use
    inside the context. Code made from anything else has another folder.

    types: a name for the types of its arguments; options: those of the decorator. Raises OSError
    and RuntimeError if there can be no folder.
    """
    with LOCK:
        configured = _config.CACHE_DIR
        try:
            folder = Path(configured or _user_cache()) / "swath" / _key(function, types, options)
            folder.mkdir(parents=True, exist_ok=True)
            _config.CACHE_DIR = str(folder)
            yield folder
        finally:
            _config.CACHE_DIR = configured


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def settle_triton_cache() -> None:
    """Have Triton keep its kernels in a folder of this process if it cannot write to its own:
    without one, it compiles nothing. It takes along what it can read there, which an image may have
    brought."""
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~/")
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache"))
    if _can_write(folder):
        return
    other = tempfile.mkdtemp(prefix="swath-triton-")
    atexit.register(shutil.rmtree, other, ignore_errors=True)
    with suppress(OSError, shutil.Error):
        shutil.copytree(folder, other, dirs_exist_ok=True)
    os.environ["TRITON_CACHE_DIR"] = other


def _can_write(folder: Path) -> bool:
    if folder.parts[0] == "~":  # there is no home
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _key(function: Call, types: str, options: Mapping[str, Any]) -> str:
    """A hash of everything that the machine code depends on. (Two processes that write different
    code into one folder at once would have theirs mixed up.)"""
    key = hashlib.sha256(f"{numba.__version__} {types} {binding.get_host_cpu_name()}".encode())
    key.update((_config.CPU_FEATURES or "").encode())
    in_order = {name: sorted(v) if isinstance(v, set) else v for name, v in options.items()}
    key.update(repr(sorted(in_order.items())).encode())
    files, constants = sources_and_constants(function)
    for file in sorted({__file__, *files}):
        key.update(Path(file).read_bytes())
    key.update("\n".join(sorted(constants)).encode())
    return key.hexdigest()[:16]


def _use_wide_vectors() -> None:
    """LLVM by itself uses half the width of AVX-512; our loops are a quarter faster in the full
    width."""
    features = binding.get_host_cpu_features()
    if _config.CPU_FEATURES is None and platform.machine() == "x86_64" and features["avx512f"]:
        _config.CPU_NAME = binding.get_host_cpu_name()
        _config.CPU_FEATURES = features.flatten() + ",-prefer-256-bit"


_use_wide_vectors()

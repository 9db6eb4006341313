"""Compiled loops on torch's own threads.

torch computes with GNU OpenMP and keeps its threads spinning for a while after each operation, so
threads of another library would fight them for the cores. Hence a loop is handed to the same pool,
by the call that compilers generate for `#pragma omp parallel`. If torch has another OpenMP, a loop
runs on the calling thread alone. Knows nothing of what a loop computes.
"""

# mypy: disable-error-code="no-untyped-def"
# numba finds the types.

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from segformer.compiled import LOCK, OPTIONS, cache_folder

FAST: dict[str, Any] = {**OPTIONS, "fastmath": {"contract", "reassoc", "nsz"}}
"""Options that fuse multiplications with additions and sum in lanes; NaN and infinity survive."""
fast_njit: Any = numba.njit(**FAST)
"""Decorator for functions that loops call."""
_SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64)
_cfunc: Any = numba.cfunc

Loop = Callable[[Any, int, int], None]
"""`loop(job, part, parts)`: does one part of the work; `job` is a row of int64 numbers and
addresses."""


def _torch_openmp() -> ctypes.CDLL | None:
    """The library if torch has loaded it; never another copy."""
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except (OSError, AttributeError):
        return None


_OPENMP = _torch_openmp()


class ParallelLoop:
    """A loop as machine code, compiled when it is first called, run by torch's threads."""

    def __init__(self, function: Loop) -> None:
        self._function = function
        self._code: Any = None

    def __call__(self, *words: int | torch.Tensor | np.ndarray) -> None:
        """Run the loop over a job of these words.

        Tensors and arrays are passed as their addresses; they must be contiguous and of the types
        that the loop expects.
        """
        with LOCK:
            if self._code is None:
                self._code = _compile(self._function)
        job = np.array([_word(word) for word in words], np.int64)
        threads = torch.get_num_threads()
        if _OPENMP is None or threads == 1:
            self._code.ctypes(job.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)), 0, 1)
        else:
            code_and_job = np.array([self._code.address, job.ctypes.data], np.int64)
            with LOCK:
                entry = _thread_entry()
            code, data = ctypes.c_void_p(entry.address), ctypes.c_void_p(code_and_job.ctypes.data)
            _OPENMP.GOMP_parallel(code, data, ctypes.c_uint(threads), ctypes.c_uint(0))


def _word(word: int | torch.Tensor | np.ndarray) -> int:
    if isinstance(word, torch.Tensor):
        assert word.is_contiguous() and word.device.type == "cpu"  # noqa: PT018
        return word.data_ptr()
    return word if isinstance(word, int) else word.ctypes.data


def _compile(function: Loop) -> Any:
    """The loop's machine code, from the cache if there is one."""
    try:
        with cache_folder(function, "kernel", FAST):
            return _cfunc(_SIGNATURE, cache=True, **FAST)(function)
    except Exception:  # noqa: BLE001  a torn file of the cache, a full disk: whatever it is
        return _cfunc(_SIGNATURE, **FAST)(function)


@functools.cache
def _thread_entry() -> Any:
    """What each OpenMP thread calls: given a loop's code and its job, does that thread's part."""
    number = types.ExternalFunction("swath_thread", types.int64())
    count = types.ExternalFunction("swath_threads", types.int64())
    for name, openmp_name in (
        ("swath_thread", "omp_get_thread_num"),
        ("swath_threads", "omp_get_num_threads"),
    ):
        function = ctypes.cast(getattr(_OPENMP, openmp_name), ctypes.c_void_p)
        binding.add_symbol(name, function.value)

    def entry(code_and_job):
        part, parts = number() & 0xFFFFFFFF, count() & 0xFFFFFFFF  # C ints of 32 bits
        _call(code_and_job[0], code_and_job[1], part, parts)

    return _cfunc(types.void(types.CPointer(types.int64)))(entry)


@intrinsic
def _call(typing: Any, code: Any, job: Any, part: Any, parts: Any) -> Any:  # noqa: ARG001
    """Call the loop at an address."""

    def call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        word = ir.IntType(64)
        loop = ir.FunctionType(ir.VoidType(), [word.as_pointer(), word, word])
        address, job, *part_and_parts = arguments
        builder.call(
            builder.inttoptr(address, loop.as_pointer()),
            [builder.inttoptr(job, word.as_pointer()), *part_and_parts],
        )
        return builder.add(word(0), word(0))

    return types.int64(types.int64, types.int64, types.int64, types.int64), call

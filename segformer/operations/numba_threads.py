"""Loops as machine code on torch's own threads.

torch computes with GNU OpenMP and keeps its threads spinning for a while after each operation:
threads of anybody else would fight with them for the cores. So a kernel is handed to the same pool,
by the call that compilers make for `#pragma omp parallel`. Where torch has another OpenMP, a kernel
runs on the calling thread alone.
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
"""Multiplications and additions in one, sums in lanes; NaN and infinity stay what they are."""
_SIGNATURE = types.void(types.CPointer(types.int64), types.int64, types.int64)
_cfunc: Any = numba.cfunc
_INT32 = ir.IntType(32)
loops: Any = numba.njit(**FAST)
"""For functions that kernels call."""


def _torch_openmp() -> ctypes.CDLL | None:
    """The library if torch has loaded it, and not another copy."""
    try:
        return ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except (OSError, AttributeError):
        return None


_OPENMP = _torch_openmp()


class Kernel:
    """A function of a row of int64 words, numbers and addresses, and of which part of the work is
    to be done, of how many. Compiled when it is first called."""

    def __init__(self, function: Callable[[Any, int, int], None]) -> None:
        self._function = function
        self._code: Any = None

    def __call__(self, *words: int | torch.Tensor | np.ndarray) -> None:
        """Tensors and arrays by their address: contiguous, of the types that the kernel expects."""
        with LOCK:
            if self._code is None:
                self._code = _compiled(self._function)
        job = np.array([_word(word) for word in words], np.int64)
        threads = torch.get_num_threads()
        if _OPENMP is None or threads == 1:
            self._code.ctypes(job.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)), 0, 1)
        else:
            both = np.array([self._code.address, job.ctypes.data], np.int64)
            with LOCK:
                part = _part()
            code, data = ctypes.c_void_p(part.address), ctypes.c_void_p(both.ctypes.data)
            _OPENMP.GOMP_parallel(code, data, ctypes.c_uint(threads), ctypes.c_uint(0))


def _word(word: int | torch.Tensor | np.ndarray) -> int:
    if isinstance(word, torch.Tensor):
        assert word.is_contiguous() and word.device.type == "cpu"  # noqa: PT018
        return word.data_ptr()
    return word if isinstance(word, int) else word.ctypes.data


def _compiled(function: Callable[[Any, int, int], None]) -> Any:
    """By way of the cache where there is one."""
    try:
        with cache_folder(function, "kernel"):
            return _cfunc(_SIGNATURE, cache=True, **FAST)(function)
    except Exception:  # noqa: BLE001  a torn file of the cache, a full disk: whatever it is
        return _cfunc(_SIGNATURE, **FAST)(function)


@functools.cache
def _part() -> Any:
    """What each of OpenMP's threads calls: given a kernel and its words, does its part."""
    number = types.ExternalFunction("swath_thread", types.int64())
    count = types.ExternalFunction("swath_threads", types.int64())
    for name, of_openmp in (
        ("swath_thread", "omp_get_thread_num"),
        ("swath_threads", "omp_get_num_threads"),
    ):
        function = ctypes.cast(getattr(_OPENMP, of_openmp), ctypes.c_void_p)
        binding.add_symbol(name, function.value)

    def part(both):
        _call(both[0], both[1], number() & 0xFFFFFFFF, count() & 0xFFFFFFFF)  # ints of 32 bits

    return _cfunc(types.void(types.CPointer(types.int64)))(part)


@intrinsic
def _call(typing: Any, code: Any, job: Any, part: Any, parts: Any) -> Any:  # noqa: ARG001
    """Calls a kernel at an address."""

    def call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        word = ir.IntType(64)
        kernel = ir.FunctionType(ir.VoidType(), [word.as_pointer(), word, word])
        address, job, *which = arguments
        builder.call(
            builder.inttoptr(address, kernel.as_pointer()),
            [builder.inttoptr(job, word.as_pointer()), *which],
        )
        return builder.add(word(0), word(0))

    return types.int64(types.int64, types.int64, types.int64, types.int64), call


def _pointer_to(values: Any) -> Any:
    @intrinsic
    def at(typing: Any, address: Any) -> Any:  # noqa: ARG001
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(values)(types.int64), code

    return at


floats = _pointer_to(types.float32)
"""The float32 values at an address."""
brains = _pointer_to(types.uint16)
"""The bfloat16 values at an address, each the upper half of a float32."""
integers = _pointer_to(types.int64)
"""The int64 values at an address."""


@intrinsic
def load(typing: Any, values: Any, place: Any) -> Any:  # noqa: ARG001
    """float32 of what `floats` or `brains` gave, at a place."""
    whole = values.dtype == types.float32

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        value = builder.load(builder.gep(arguments[0], [arguments[1]]))
        if whole:
            return value
        bits = builder.shl(builder.zext(value, _INT32), _INT32(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(values, types.int64), code


@intrinsic
def store(typing: Any, values: Any, place: Any, value: Any) -> Any:  # noqa: ARG001
    """Puts a float32 there; as bfloat16 it is rounded to the nearest, ties to even."""
    whole = values.dtype == types.float32

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        pointer, place, value = arguments
        if not whole:
            bits = builder.bitcast(value, _INT32)
            odd = builder.and_(builder.lshr(bits, _INT32(16)), _INT32(1))
            rounded = builder.add(bits, builder.add(odd, _INT32(0x7FFF)))
            # A NaN's bits would be rounded up to infinity, or over it.
            quiet = builder.or_(bits, _INT32(0x400000))
            is_nan = builder.fcmp_unordered("uno", value, value)
            bits = builder.select(is_nan, quiet, rounded)
            value = builder.trunc(builder.lshr(bits, _INT32(16)), ir.IntType(16))
        builder.store(value, builder.gep(pointer, [place]))

    return types.void(values, types.int64, types.float32), code

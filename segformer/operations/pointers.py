"""Values at memory addresses, for loops that numba compiles: float32, bfloat16 and int64.

A loop that takes addresses as int64 words needs no array types and can be called by any thread.
Knows nothing of what the values mean; checks nothing.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_INT32 = ir.IntType(32)


def _pointer_to(values: Any) -> Any:
    @intrinsic
    def at(typing: Any, address: Any) -> Any:  # noqa: ARG001
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(values)(types.int64), code

    return at


floats = _pointer_to(types.float32)
"""The float32 values at an address."""
bfloats = _pointer_to(types.uint16)
"""The bfloat16 values at an address, each the upper half of a float32. Use `load` and `store`."""
integers = _pointer_to(types.int64)
"""The int64 values at an address."""


@intrinsic
def load(typing: Any, values: Any, index: Any) -> Any:  # noqa: ARG001
    """The value at an index of what `floats` or `bfloats` returned, as float32."""
    is_float32 = values.dtype == types.float32

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        value = builder.load(builder.gep(arguments[0], [arguments[1]]))
        if is_float32:
            return value
        bits = builder.shl(builder.zext(value, _INT32), _INT32(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(values, types.int64), code


@intrinsic
def store(typing: Any, values: Any, index: Any, value: Any) -> Any:  # noqa: ARG001
    """Write a float32 at an index; bfloat16 is rounded to the nearest, ties to even."""
    is_float32 = values.dtype == types.float32

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        pointer, index, value = arguments
        if not is_float32:
            bits = builder.bitcast(value, _INT32)
            odd = builder.and_(builder.lshr(bits, _INT32(16)), _INT32(1))
            rounded = builder.add(bits, builder.add(odd, _INT32(0x7FFF)))
            # Rounding would turn a NaN's bits into infinity, or wrap them around.
            quiet = builder.or_(bits, _INT32(0x400000))
            is_nan = builder.fcmp_unordered("uno", value, value)
            bits = builder.select(is_nan, quiet, rounded)
            value = builder.trunc(builder.lshr(bits, _INT32(16)), ir.IntType(16))
        builder.store(value, builder.gep(pointer, [index]))

    return types.void(values, types.int64, types.float32), code

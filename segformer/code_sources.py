"""What the machine code of a function is made from: source files and constants.

numba bakes the numbers that a function uses into its code, from whichever file they are imported;
so whether kept code still holds is not for one file to say. Knows functions of Python, and not how
numba compiles them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from numbers import Number
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np


def sources_and_constants(function: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """The source files of a function and of all functions of ours that it calls, directly or not,
    and the constants that they use, as "module name type value".

    Those in packages other than the function's and this one are libraries', and not visited.
    """
    packages = {name.partition(".")[0] for name in (__name__, function.__module__)}
    files, constants = set[str](), set[str]()
    waiting: list[Any] = [function]
    visited: set[Any] = set()
    while waiting:
        function = waiting.pop()
        visited.add(function)
        files.add(function.__code__.co_filename)
        for name, value in _variables(function):
            source = inspect.unwrap(value)  # what numba's decorators wrap
            if isinstance(source, FunctionType):
                if source.__module__.partition(".")[0] in packages and source not in visited:
                    waiting.append(source)
            elif (text := _text(value)) is not None:
                constants.add(f"{function.__module__} {name} {text}")
    return files, constants


def _variables(function: Any) -> Iterator[tuple[str, Any]]:
    """The global and enclosing variables that a function's code may use, with their values, and
    those of modules that it names."""
    names = _names(function.__code__)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    variables = {name: cell.cell_contents for name, cell in cells}
    variables |= {name: value for name, value in function.__globals__.items() if name in names}
    for name, value in variables.items():
        yield name, value
        if isinstance(value, ModuleType):
            members = vars(value)
            yield from ((f"{name}.{n}", members[n]) for n in names if n in members)


def _names(code: CodeType) -> set[str]:
    """The names of globals and attributes in a piece of code and in what is nested in it."""
    nested = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*nested)


def _text(value: Any) -> str | None:
    """All that numba may bake of a value into machine code; None if that is nothing."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.tolist()}"
    if isinstance(value, tuple):
        return None if None in (texts := list(map(_text, value))) else str(texts)
    return f"{type(value).__name__} {value!r}" if isinstance(value, Number | str | bytes) else None

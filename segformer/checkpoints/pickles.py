"""Pickles read without running their code: a machine that builds plain values and nothing else.

A pickle is a program. Python's own machine imports what the program names and calls it; this one
imports nothing, calls nothing and sets no attribute. It knows numbers, text, lists and dicts, and
three kinds of names:
- those that have a builder (`Builders`: how a tensor is put together, OrderedDict): a function of
  ours is called instead;
- those of libraries whose objects are in checkpoints beside the weights (HARMLESS): whatever would
  be made of them becomes an `InertObject`, which is nothing but its name;
- all others: the pickle is refused, even if it never calls them.

The instructions are Python's pickletools' (https://docs.python.org/3/library/pickletools.html).
Knows no tensor.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segformer.errors import CheckpointError

_MODULES = """addict albumentations argparse.Namespace collections copy_reg._reconstructor datetime
    _codecs.encode copyreg._reconstructor enum ftw_tools functools.partial geoai jsonargparse kornia
    lightning lightning_fabric mmcv mmengine mmseg numpy omegaconf pathlib pytorch_lightning
    segmentation_models_pytorch terratorch timm torch torchgeo torchmetrics torchvision transformers
    typing"""
_BUILTINS = """bool bytearray bytes complex dict float frozenset getattr int list long object range
    set slice str tuple unicode"""
HARMLESS = frozenset(_MODULES.split()) | {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")  # in Python 3, and in 2 and its protocols
    for name in _BUILTINS.split()
}
"""Modules with everything below them, and single names. getattr names methods; none is called."""
_PLAIN = (str, bytes, int, float, bool, type(None))
_CONSTANT_OPCODES = """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING
    SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8"""
_CONSTANTS = frozenset(_CONSTANT_OPCODES.split())


@dataclass(frozen=True, eq=False)
class InertObject:
    """An object that was not made. Its name says what it would have been."""

    name: str


@dataclass(frozen=True)
class Global:
    """A class or function that the pickle names, by its dotted path."""

    path: str


Builders = Mapping[str, Callable[..., Any]]
"""What is called instead of a class or function, by its dotted path. A builder gets only plain
values, InertObjects and Globals."""


def load(
    file: io.BytesIO, builders: Builders, persistent: Callable[[Any], Any] | None = None
) -> Any:
    """Read the value of the pickle at the file's position, and move the position to its end.

    persistent: returns what a persistent id stands for. Raises CheckpointError for a name that is
    not harmless; and whatever Python raises for a damaged pickle.
    """
    machine = _Machine(builders, persistent)
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise EOFError("the pickle has no end")


def pairs(values: Sequence[Any]) -> dict[Any, Any]:
    """A dict from alternating keys and values.

    Keys that are not plain values are replaced: to hash a tuple in a tuple in a tuple ... would
    exhaust Python's own stack.
    """
    keys = (key if isinstance(key, _PLAIN) else InertObject("key") for key in values[::2])
    return dict(zip(keys, values[1::2], strict=True))


_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,  # its elements need not be hashed
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_SINCE_MARK: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "FROZENSET": list,
    "TUPLE": tuple,
    "DICT": pairs,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack, the memo, and the instructions, each a method."""

    def __init__(self, builders: Builders, persistent: Callable[[Any], Any] | None) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stacks that marks have set aside."""
        self.memo: dict[int, Any] = {}
        self._builders = builders
        self._persistent = persistent

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction, by its name in pickletools."""
        if name in _CONSTANTS:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _SINCE_MARK:
            values = self._since_mark()
            self.stack.append(_SINCE_MARK[name](values))
        elif name in _TUPLES:
            values = self.stack[-_TUPLES[name] :]
            self.stack[-_TUPLES[name] :] = [tuple(values)]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME"):
            action = getattr(self, f"_{name.lower()}", None)
            if action is None:
                raise CheckpointError(f"holds the pickle instruction {name}, which is not executed")
            action() if argument is None else action(argument)

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values

    def _mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _pop(self) -> None:
        self.stack.pop() if self.stack else self._since_mark()

    _pop_mark = _since_mark

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        values = self._since_mark()
        self._extend(values)

    _additems = _appends

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, InertObject):
            raise TypeError("appends to what is no list")

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self) -> None:
        values = self._since_mark()
        self._update(values)

    def _update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(pairs(values))
        elif not isinstance(target, InertObject):
            raise TypeError("sets an item of what is no dict")

    def _find(self, path: str) -> Global:
        parts = path.split(".")
        whole = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
        if path not in self._builders and HARMLESS.isdisjoint(whole):
            raise CheckpointError(
                f"holds {path[:100]!r}, which is code and is not executed; if you trust the"
                " file, load it with the program that wrote it and save its state_dict() alone"
            )
        return Global(path)

    def _global(self, argument: str) -> None:
        self.stack.append(self._find(argument.replace(" ", ".", 1)))

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("the name of a class is no text")
        self.stack.append(self._find(f"{module}.{name}"))

    def _call(self, what: Any, arguments: Any) -> None:
        if not isinstance(what, Global | InertObject) or not isinstance(arguments, tuple):
            raise TypeError("calls what is no name")
        build = self._builders.get(what.path) if isinstance(what, Global) else None
        if build is None:
            result: Any = InertObject(what.path if isinstance(what, Global) else what.name)
        else:
            result = build(*arguments)
        self.stack.append(result)

    def _reduce(self) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        self._call(what, arguments)

    _newobj = _reduce

    def _newobj_ex(self) -> None:
        self.stack.pop()  # keyword arguments
        self._reduce()

    def _obj(self) -> None:
        what, *arguments = self._since_mark()
        self._call(what, tuple(arguments))

    def _inst(self, argument: str) -> None:
        arguments = self._since_mark()
        self._call(self._find(argument.replace(" ", ".", 1)), tuple(arguments))

    def _build(self) -> None:
        self.stack.pop()  # the state, which no object here has

    def _binpersid(self) -> None:
        if self._persistent is None:
            raise CheckpointError("refers to what is not in the file (a persistent id)")
        self.stack.append(self._persistent(self.stack.pop()))

    def _persid(self, argument: str) -> None:
        self.stack.append(argument)
        self._binpersid()

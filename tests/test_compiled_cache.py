"""Machine code is cached in another folder as soon as anything that it depends on changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.engine import blend_loops, confidence
from segformer.code_sources import sources_and_constants
from segformer.compiled import Compiled, cache_folder
from segformer.operations import cpu_loops

ROOT = Path(__file__).parent.parent
SOURCES = {
    "__init__": "",
    "numbers": "SCALE, TABLE = 2.0, (1, 2.5)\nOTHER = 1",
    "rows": (
        "from segformer.compiled import inner\n"
        "from looped import numbers\n"
        "@inner\n"
        "def one(x):\n"
        "    return x * numbers.SCALE\n"
    ),
    "loops": (
        "from looped.numbers import TABLE\n"
        "from looped.rows import one\n"
        "def fill(values):\n"
        "    values[0] = one(values[0]) + TABLE[1]\n"
    ),
    "neighbour": "def unrelated(): ...",
}
KERNEL = """
import sys
from segformer.compiled import settle_triton_cache

settle_triton_cache()
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def add_one(values, n: tl.constexpr):
    at = values + tl.arange(0, n)
    tl.store(at, tl.load(at) + 1)


source = ASTSource(add_one, {"values": "*fp32", "n": "constexpr"}, constexprs={(1,): 64})
triton.compile(source, target=GPUTarget("cuda", 90, 32))
print(triton.knobs.cache.dir)
"""
"""A script that compiles a kernel."""
Rewrite = Callable[[str, str, str], Path]


@pytest.fixture
def rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rewrite:
    """Replaces a text in a module of a package of loops; returns the folder of its machine code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "looped"
    package.mkdir()
    for name, text in SOURCES.items():
        (package / f"{name}.py").write_text(text)

    def folder(module: str, old: str, new: str) -> Path:
        path = package / f"{module}.py"
        path.write_text(path.read_text().replace(old, new))
        for name in [name for name in sys.modules if name.partition(".")[0] == "looped"]:
            del sys.modules[name]
        with cache_folder(import_module("looped.loops").fill, "float64") as path:
            return path

    return folder


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("loops", "values[0]) +", "values[0]) -"),  # the function itself
        ("rows", "x *", "x +"),  # a function that it calls
        ("numbers", "= 2.0", "= 3.0"),  # a number that this takes from a third file
        ("numbers", "= 2.0", "= 2"),  # its type
        ("numbers", "2.5", "2.25"),
    ],
)
def test_a_change_of_what_the_loop_uses_gives_another_folder(
    rewrite: Rewrite, module: str, old: str, new: str
) -> None:
    before = rewrite("loops", "", "")
    assert rewrite(module, old, new) != before
    assert rewrite(module, new, old) == before


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [("neighbour", "unrelated", "renamed"), ("numbers", "OTHER = 1", "OTHER = 2")],
)
def test_a_change_of_what_the_loop_does_not_use_keeps_the_folder(
    rewrite: Rewrite, module: str, old: str, new: str
) -> None:
    assert rewrite("loops", "", "") == rewrite(module, old, new)


def test_other_types_and_options_give_other_folders(rewrite: Rewrite) -> None:
    rewrite("loops", "", "")
    function = import_module("looped.loops").fill
    folders = set()
    for types, options in (("a", {}), ("b", {}), ("a", {"fastmath": {"contract", "nsz"}})):
        with cache_folder(function, types, options) as folder:
            folders.add(folder)
    assert len(folders) == 3


class Ab(NamedTuple):
    a: np.ndarray
    b: np.ndarray


def add_b(pair: Ab) -> None:
    pair.a[0] += pair.b[0]


def test_the_order_of_a_named_tuples_fields_gives_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine code finds fields by their position."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for order in (("a", "b"), ("b", "a")):
        monkeypatch.setattr(Ab, "_fields", order)
        Compiled(add_b)("float64", Ab(np.zeros(1), np.ones(1)))
    assert len(list((tmp_path / "swath").iterdir())) == 2


def test_the_blends_loop_depends_on_its_files_and_constants() -> None:
    files, constants = sources_and_constants(blend_loops._blend_strip)
    names = {Path(file).name for file in files}
    assert {"blend_loops.py", "pointers.py"} <= names
    assert "blend_cpu.py" not in names
    scale = np.float32(blend_loops.CONFIDENCE_SCALE)
    assert f"pipeline.engine.blend_loops _SCALE float32 {scale!r}" in constants
    exponent = np.float32(confidence.MIN_EXPONENT)
    assert f"pipeline.engine.blend_loops _MIN_EXPONENT float32 {exponent!r}" in constants


def test_the_networks_loops_depend_on_their_files_and_constants() -> None:
    files, constants = sources_and_constants(cpu_loops.add_norm["float32"]._function)
    assert {"cpu_loops.py", "pointers.py"} <= {Path(file).name for file in files}
    assert any("_ONE" in constant for constant in constants)


def test_functions_are_compiled_without_a_folder_to_keep_them_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    pair = Ab(np.zeros(1), np.ones(1))
    Compiled(add_b)("float64", pair)
    assert pair.a == [1]
    with pytest.raises(OSError, match="Not a directory"), cache_folder(add_b, "float64"):
        pass


@pytest.mark.parametrize(
    ("variables", "kept"),
    [
        ({"HOME": "/proc/nonexistent"}, False),
        ({"HOME": "~"}, False),  # what Python makes of a home that nobody knows
        ({"HOME": "{folder}"}, True),
        ({"HOME": "/proc/nonexistent", "TRITON_CACHE_DIR": "{folder}/cache"}, True),
    ],
)
def test_triton_compiles_without_a_home_folder(
    tmp_path: Path, variables: dict[str, str], kept: bool
) -> None:
    """For a GPU that need not be there."""
    pytest.importorskip("triton")
    script = tmp_path / "kernel.py"
    script.write_text(KERNEL)
    given = {name: value.format(folder=tmp_path) for name, value in variables.items()}
    env = {**os.environ, "PYTHONPATH": str(ROOT), **given}
    done = subprocess.run(
        [sys.executable, script], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path) == kept
    assert folder.exists() == kept  # its own folder goes with the process
    assert list(tmp_path.glob("~*")) == []

"""The house stays as docs/design.md draws it: direction of imports, doors, sizes."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pipeline
import segformer

ROOT = Path(__file__).parent.parent
PACKAGES = ("segformer", "pipeline", "jobs", "deploy")
"""From the ground up: a package imports only those before it."""
OUTSIDE = ("tests", "bench", "examples")
"""May import anything; nothing imports them."""
FREE = {"numpy"}
"""Third-party libraries that need no door."""
DOORS = {
    "jobs/dashboard.py": {"ray"},
    "segformer/checkpoints/checkpoint.py": {"fsspec", "safetensors"},
    "segformer/compiled.py": {"numba", "llvmlite"},
    "segformer/operations/cuda_decoder.py": {"triton"},
    "segformer/checkpoints/folder.py": {"fsspec"},
    "segformer/operations/cuda_kernels.py": {"triton"},
    "segformer/operations/numba_threads.py": {"numba", "llvmlite"},
    "deploy/warm_triton.py": {"triton"},
}
"""Doors outside pipeline/, whose own stand in docs/design.md, by file."""
PACKAGE_DOORS = {"segformer": {"torch"}, "jobs": {"click", "rich"}}
LINES, LINES_OF_NETWORK = 250, 400


def table_of_rooms() -> list[tuple[str, set[str]]]:
    """File names of pipeline/ from the top of design.md's table down, each with its libraries."""
    rooms = []
    for line in (ROOT / "docs" / "design.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            libraries = {name.strip() for name in cells[2].split(",") if name.strip()}
            rooms += [(name, libraries) for name in re.findall(r"`(\w+\.py)`", cells[0])]
    return rooms


ROOMS = table_of_rooms()
ORDER = [name for name, _ in ROOMS]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
)


def imports(file: str) -> Iterator[tuple[int, str]]:
    """Every import of a file, inside functions too: line and dotted name."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(), file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            # `from pipeline import grid` names a file as much as `from pipeline.grid import x`.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def test_the_table_of_rooms_lists_the_files_of_the_pipeline() -> None:
    files = {name.removeprefix("pipeline/") for name in FILES if name.startswith("pipeline/")}
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == files - {"__init__.py"}


@pytest.mark.parametrize("file", FILES)
def test_packages_import_downwards_only(file: str) -> None:
    own = file.partition("/")[0]
    above = {*PACKAGES[PACKAGES.index(own) + 1 :], *OUTSIDE}
    wrong = [
        f"{file}:{line}: {name}" for line, name in imports(file) if name.split(".")[0] in above
    ]
    assert not wrong


@pytest.mark.parametrize("position", range(len(ORDER)), ids=ORDER)
def test_pipeline_files_import_only_those_above_them(position: int) -> None:
    file = f"pipeline/{ORDER[position]}"
    above = {name.removesuffix(".py") for name in ORDER[:position]}
    wrong = []
    for line, name in imports(file):
        package, _, rest = name.partition(".")
        if package == "pipeline" and rest.split(".")[0] not in above:
            wrong.append(f"{file}:{line}: {name}")
    assert not wrong


@pytest.mark.parametrize("file", FILES)
def test_libraries_are_behind_their_doors(file: str) -> None:
    package, _, name = file.partition("/")
    allowed = FREE | PACKAGE_DOORS.get(package, set()) | DOORS.get(file, set())
    if package == "pipeline":
        allowed |= dict(ROOMS).get(name, set())
    known = {*allowed, *PACKAGES, *OUTSIDE, *sys.stdlib_module_names}
    wrong = [
        f"{file}:{line}: {name}"
        for line, name in runtime_imports(file)
        if name.split(".")[0] not in known
    ]
    assert not wrong


def runtime_imports(file: str) -> Iterator[tuple[int, str]]:
    """Imports but those of `if TYPE_CHECKING`: naming a type opens no door."""
    tree = ast.parse((ROOT / file).read_text(), file)
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    for_types = {
        line
        for node in blocks
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for line in range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
    }
    yield from ((line, name) for line, name in imports(file) if line not in for_types)


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_imported_by_a_computed_name(file: str) -> None:
    """It would pass the other tests unseen."""
    found = [name for _, name in imports(file) if name != "importlib.metadata"]
    names = {name.split(".")[0] for name in found}
    calls = {
        node.func.id
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    # A package's own __init__ may put off importing its own files.
    assert "importlib" not in names or file.endswith("/__init__.py")
    assert "__import__" not in calls


@pytest.mark.parametrize("file", FILES)
def test_files_stay_small(file: str) -> None:
    limit = LINES_OF_NETWORK if file == "segformer/network.py" else LINES
    lines = len((ROOT / file).read_text().splitlines())
    assert lines <= limit


def test_nothing_is_left_to_do_in_comments() -> None:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    folders = [*PACKAGES, *OUTSIDE, "docs"]
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    texts = [path for path in paths if path.suffix in {".py", ".md", ".sh", ".yaml", ".toml"}]
    texts += [ROOT / name for name in ("Makefile", "README.md", "pyproject.toml", ".ci/run")]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert not found


@pytest.mark.parametrize("package", [pipeline, segformer])
def test_what_a_package_offers_is_listed_and_there(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    assert all(callable(getattr(package, name)) or name == "MIT" for name in package.__all__)

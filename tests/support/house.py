"""Checks of the house that docs/design.md draws: which room may import which, and which library.

Reads source as text (`ast`), so that imports inside functions and under `if TYPE_CHECKING` count
like all others. Knows nothing of what the code does. Each check returns its violations, one line
each.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PACKAGES = ("segformer", "pipeline", "jobs", "deploy")
"""The packages of the house, lowest floor first: each imports only those before it."""
OUTSIDE = ("tests", "bench", "examples")
"""Folders that may import anything and that no package imports."""
FREE_LIBRARIES = {"numpy"}
"""Third-party libraries that every room may import."""
HEADLESS = re.compile(r"(Of|That|Whose|Which|In which|After which|By which|On which|With which)\b")
"""The beginning of a docstring that has no subject: "Of the sums." """


@dataclass(frozen=True)
class Room:
    """A row of the table of rooms in docs/design.md."""

    name: str
    """A package of `pipeline/` or `segformer/` with its path (`pipeline/storage`), or one file."""
    libraries: frozenset[str]
    """The third-party libraries that this room alone may import."""


@dataclass(frozen=True)
class House:
    """A checkout and the rooms that its documents say it has."""

    root: Path
    rooms: tuple[Room, ...]
    """Top floor first: a room imports only rooms before it."""

    @classmethod
    def open(cls, root: Path) -> House:
        return cls(root, tuple(_rooms((root / "docs" / "design.md").read_text(encoding="utf-8"))))

    @property
    def files(self) -> list[str]:
        """Paths of the packages' Python files, relative to the root."""
        paths = (path for package in PACKAGES for path in (self.root / package).rglob("*.py"))
        return sorted(path.relative_to(self.root).as_posix() for path in paths)

    def room_of(self, file: str) -> str | None:
        """The name of the room that a file is in: of several, the one inside the others."""
        names = [room.name for room in self.rooms if f"{file}/".startswith(f"{room.name}/")]
        return max(names, key=len, default=None)

    def unlisted(self) -> list[str]:
        """Files that are in no room, and rooms that do not exist."""
        without = [file for file in self.files if not self.room_of(file) and not is_sign(file)]
        return without + [room.name for room in self.rooms if not (self.root / room.name).exists()]

    def imports_upwards(self) -> list[str]:
        """Imports of rooms below the importing one, and of tests, benchmarks and examples."""
        floors = {room.name: floor for floor, room in enumerate(self.rooms)}
        wrong = []
        for file, line, target in self._own_imports():
            importer, imported = self.room_of(file) or "", self.room_of(target) or ""
            nested = importer.startswith(f"{imported}/") or imported.startswith(f"{importer}/")
            below = not nested and floors.get(imported, -1) > floors.get(importer, len(floors))
            if below or target.partition("/")[0] in OUTSIDE:
                wrong.append(f"{file}:{line}: {target}")
        return wrong

    def circles(self) -> list[str]:
        """A circle of files that import each other, if there is one."""
        graph: dict[str, set[str]] = {}
        for file, _, target in self._own_imports():
            graph.setdefault(file, set()).add(target)
        try:
            list(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError as error:
            return [" -> ".join(error.args[1])]
        return []

    def libraries_elsewhere(self) -> list[str]:
        """Imports of third-party libraries by rooms that are not theirs."""
        allowed = {room.name: room.libraries for room in self.rooms}
        everywhere = {*PACKAGES, *OUTSIDE, *sys.stdlib_module_names, *FREE_LIBRARIES}
        wrong = []
        for file in self.files:
            known = everywhere | allowed.get(self.room_of(file) or "", frozenset())
            for line, name in imports(self.root / file):
                if name.partition(".")[0] not in known:
                    wrong.append(f"{file}:{line}: {name}")
        return wrong

    def _own_imports(self) -> Iterator[tuple[str, int, str]]:
        """File, line and imported file of each import within the house. Signs do not count as
        importers: a package may offer what is inside."""
        for file in self.files:
            if is_sign(file):
                continue
            for line, name in imports(self.root / file):
                target = self._file_of(name)
                if target:
                    yield file, line, target

    def _file_of(self, name: str) -> str | None:
        """The file that a dotted name is in: `pipeline.grid.Axis` -> `pipeline/grid.py`."""
        parts = name.split(".")
        if parts[0] not in (*PACKAGES, *OUTSIDE):
            return None
        for end in range(len(parts), 0, -1):
            path = "/".join(parts[:end])
            if (self.root / f"{path}.py").exists():
                return f"{path}.py"
        return f"{parts[0]}/__init__.py"


def is_sign(file: str) -> bool:
    """Whether a file is the sign on a room's door."""
    return file.endswith("__init__.py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import of a file, including those inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # `from pipeline import grid` names a file as much as `from pipeline.grid import x`.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, including those below fields and constants."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.lineno, value.value.strip()


def headless(paths: Iterable[Path]) -> list[str]:
    """Docstrings that begin without a subject."""
    return [
        f"{path}:{line}: {text.splitlines()[0]}"
        for path in paths
        for line, text in docstrings(path)
        if HEADLESS.match(text)
    ]


def doubled(paths: Iterable[Path]) -> list[str]:
    """Docstrings right after another one, which nobody's help shows."""
    wrong = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            body = getattr(node, "body", None)
            statements = body if isinstance(body, list) else []
            wrong += [
                f"{path}:{second.lineno}"
                for first, second in pairwise(statements)
                if _is_string(first) and _is_string(second)
            ]
    return wrong


def _is_string(statement: ast.stmt) -> bool:
    """Whether a statement is nothing but a string."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def unsigned(root: Path, room: str) -> list[str]:
    """Files of a room that its sign, the docstring of `__init__`, says nothing about."""
    sign = ast.get_docstring(ast.parse((root / room / "__init__.py").read_text())) or ""
    listed: Mapping[str, str] = dict(re.findall(r"^ *(\w+\.py) +(\S.*)$", sign, re.MULTILINE))
    files = {path.name for path in (root / room).glob("*.py")} - {"__init__.py"}
    return sorted(f"{room}/{name}" for name in files ^ listed.keys())


def _rooms(page: str) -> Iterator[Room]:
    """The rooms in the order of the page's tables: `room` | what it does | libraries."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and re.match(r"`[\w/.]+`", cells[0]):
            libraries = frozenset(name.strip() for name in cells[2].split(",") if name.strip())
            for name in re.findall(r"`([\w/.]+)`", cells[0]):
                yield Room(name.rstrip("/"), libraries)

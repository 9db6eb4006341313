"""The house stays as docs/design.md draws it: imports, libraries, sizes, signs and sentences."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pipeline
import segformer
from tests.support.house import (
    OUTSIDE,
    PACKAGES,
    House,
    doubled,
    headless,
    imports,
    is_sign,
    unsigned,
)

ROOT = Path(__file__).parent.parent
HOUSE = House.open(ROOT)
LINES, LINES_OF_NETWORK = 250, 400


def test_every_file_is_in_a_room_of_the_table() -> None:
    assert HOUSE.unlisted() == []


def test_a_room_imports_only_rooms_above_it() -> None:
    assert HOUSE.imports_upwards() == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert HOUSE.circles() == []


def test_each_library_is_imported_in_its_own_room_only() -> None:
    assert HOUSE.libraries_elsewhere() == []


def test_the_checks_find_violations(tmp_path: Path) -> None:
    """A house of three rooms in which everything is wrong."""
    rooms = "`pipeline/low.py` | x |", "`pipeline/mid/` | x | pyarrow", "`pipeline/gone.py` | x |"
    table = "".join(f"| {room} |\n" for room in rooms)
    files = {
        "docs/design.md": table,
        "pipeline/__init__.py": "",
        "pipeline/low.py": "def f():\n    from pipeline.mid import a\nimport pyarrow, bench\n",
        "pipeline/mid/__init__.py": '"""Mid.\n\n    a.py  says a\n    c.py  is not there\n"""\n',
        "pipeline/mid/a.py": "if TYPE_CHECKING:\n    from pipeline.mid.b import B\n",
        "pipeline/mid/b.py": "from pipeline.mid import a\nimport duckdb\n",
        "pipeline/stray.py": '"""Of no room."""\n"""Said twice."""\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    house = House.open(tmp_path)
    assert house.unlisted() == ["pipeline/stray.py", "pipeline/gone.py"]
    assert house.imports_upwards() == [
        "pipeline/low.py:3: bench/__init__.py",
        "pipeline/low.py:2: pipeline/mid/a.py",
    ]
    (circle,) = house.circles()
    assert set(circle.split(" -> ")) == {"pipeline/mid/a.py", "pipeline/mid/b.py"}
    assert house.libraries_elsewhere() == [
        "pipeline/low.py:3: pyarrow",
        "pipeline/mid/b.py:2: duckdb",
    ]
    assert unsigned(tmp_path, "pipeline/mid") == ["pipeline/mid/b.py", "pipeline/mid/c.py"]
    stray = tmp_path / "pipeline" / "stray.py"
    assert len(headless([stray])) == 1
    assert doubled([stray]) == [f"{stray}:2"]


def test_every_docstring_has_a_subject() -> None:
    folders = [ROOT / name for name in (*PACKAGES, *OUTSIDE)]
    assert headless(path for folder in folders for path in sorted(folder.rglob("*.py"))) == []


def test_no_docstring_follows_another() -> None:
    folders = [ROOT / name for name in (*PACKAGES, *OUTSIDE)]
    assert doubled(path for folder in folders for path in sorted(folder.rglob("*.py"))) == []


def test_the_sign_of_a_room_has_a_line_for_each_of_its_files() -> None:
    rooms = [room.name for room in HOUSE.rooms if (ROOT / room.name).is_dir()]
    assert [line for room in rooms for line in unsigned(ROOT, room)] == []


def test_nothing_is_imported_by_a_computed_name() -> None:
    """Such an import would pass the checks above. Only a package's sign may delay imports."""
    wrong = []
    for file in HOUSE.files:
        names = {name.split(".")[0] for _, name in imports(ROOT / file) if name[-9:] != ".metadata"}
        calls = {
            node.func.id
            for node in ast.walk(ast.parse((ROOT / file).read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if ("importlib" in names and not is_sign(file)) or "__import__" in calls:
            wrong.append(file)
    assert wrong == []


def test_files_stay_small() -> None:
    lines = {file: len((ROOT / file).read_text().splitlines()) for file in HOUSE.files}
    network = lines.pop("segformer/network.py")
    assert network <= LINES_OF_NETWORK
    assert {file: count for file, count in lines.items() if count > LINES} == {}


def test_nothing_is_left_to_do_in_comments() -> None:
    words = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    folders = [*PACKAGES, *OUTSIDE, "docs"]
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    texts = [path for path in paths if path.suffix in {".py", ".md", ".sh", ".yaml", ".toml"}]
    texts += [ROOT / name for name in ("Makefile", "README.md", "pyproject.toml", ".ci/run")]
    lines = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert lines == []


@pytest.mark.parametrize("package", [pipeline, segformer])
def test_what_a_package_offers_is_listed_and_there(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    assert all(callable(getattr(package, name)) or name == "MIT" for name in package.__all__)


@pytest.mark.parametrize(
    "program",
    [
        "import pipeline",
        "from pipeline import open_output, query, status",
        "from jobs.cli import main; main(['--help'])",
        "from jobs.cli import main; main(['query', '--help'])",
    ],
)
def test_neither_torch_nor_ray_is_loaded(program: str) -> None:
    """They take seconds, and neither SQL nor help needs them."""
    look = "import sys, atexit; atexit.register(lambda: print({'torch', 'ray'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{look}\n{program}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.splitlines()[-1] == "set()"

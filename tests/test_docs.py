"""The documents say what the commands do: help, the reference page, the README."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from jobs.cli import swath
from jobs.reference import reference
from jobs.tables_reference import ENTRIES, tables_reference
from pipeline.output.column import columns
from pipeline.output.schemas import SQL_TABLES
from tests.support.archives import write_scene

ROOT = Path(__file__).parent.parent


def commands_of(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    """Every command by the words that call it, including those of groups."""
    commands: dict[str, click.Command] = {}
    for name, command in sorted(group.commands.items()):
        commands[prefix + name] = command
        if isinstance(command, click.Group):
            commands |= commands_of(command, f"{prefix}{name} ")
    return commands


COMMANDS = commands_of(swath)
OPTIONS = [
    (name, parameter.opts[0], parameter)
    for name, command in COMMANDS.items()
    for parameter in command.params
    if isinstance(parameter, click.Option)
]


def help_of(name: str) -> str:
    command = COMMANDS[name]
    text = command.get_help(click.Context(command, info_name=name))
    return " ".join(text.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.get_short_help_str(limit=1000).endswith(".")


@pytest.mark.parametrize(("name", "option", "parameter"), OPTIONS, ids=str)
def test_every_option_has_help_and_states_its_default(
    name: str, option: str, parameter: click.Option
) -> None:
    assert parameter.help, f"swath {name} {option}"
    assert parameter.help.endswith("."), f"swath {name} {option}"
    assert parameter.required or parameter.show_default, f"swath {name} {option}"


@pytest.mark.parametrize("option", ["--window", "--stride", "--block"])
def test_options_for_lengths_state_their_unit(option: str) -> None:
    (parameter,) = (p for name, o, p in OPTIONS if name == "run" and o == option)
    assert "in pixels" in (parameter.help or "")


def test_exit_codes_are_in_the_help() -> None:
    for text in (" ".join(swath.get_help(click.Context(swath)).split()), help_of("run")):
        assert re.search(r"0 done; 1 failed or unfinished .*; 2 .*; 3 done, with", text)


def test_options_of_run_are_those_of_the_design() -> None:
    options = [option for name, option, _ in OPTIONS if name == "run"]
    expected = (
        "--checkpoint --output --job --window --stride --dtype --batch --bands --alpha --scale"
    )
    expected += " --offset --nodata --mean --std --rescale --weights"
    expected += " --block --replicas --runner --address --unit-timeout"
    expected += " --max-quarantined --retry-quarantined --shards --max-hours --price-per-hour"
    expected += " --storage-options"
    assert options == expected.split()


def test_the_reference_page_is_what_the_commands_say() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_the_page_of_the_tables_is_what_the_schemas_say() -> None:
    page = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert page == tables_reference(), "run `make docs`"
    assert ENTRIES.keys() == SQL_TABLES.keys()


@pytest.mark.parametrize("table", SQL_TABLES)
def test_every_column_says_what_it_means(table: str) -> None:
    for column in columns(SQL_TABLES[table]):
        assert column.description.endswith("."), f"{table}.{column.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_readme_mentions_every_command(name: str) -> None:
    assert f"swath {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_changelog_has_a_section_for_unreleased_changes() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_code_on_the_python_page_runs(
    small_checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks one after the other, as a reader would type them."""
    write_scene(tmp_path / "archive" / "a.tif", 300, 200)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == page.count("```python") > 3
    names = {"archive": str(tmp_path / "archive"), "checkpoint": small_checkpoint}
    names["out"] = str(tmp_path / "out")
    exec("\n".join(blocks), names)
    assert "areas" in names
    assert "belongs to a job" in capsys.readouterr().out

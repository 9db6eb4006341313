"""Swath's commands run in this process: exit codes and what they print."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.cli import main

Swath = Callable[..., tuple[int, str, str]]
"""Runs a command, whose words need not be texts: exit code, stdout and stderr."""
READING = "reading the checkpoint and the headers of the inputs ...\n"
"""The first line that `plan` and `run` print on stderr."""


def exit_code_of(*arguments: object) -> int:
    """The exit code of a command; what it prints is left to the test's capture."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def assert_one_error_line(stderr: str) -> None:
    """Assert that a command has printed one error, in one line, which is the last."""
    line = stderr.removeprefix(READING)
    assert line.startswith("swath: error: ")
    assert line.count("\n") == 1

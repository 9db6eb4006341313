"""Click options made from fields of Settings and Execution, with their defaults, so that the
commands and Python agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from pipeline.settings import Execution, Settings

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


def _default(of: type[Settings] | type[Execution], name: str) -> Any:
    (field,) = (field for field in fields(of) if field.name == name.replace("-", "_"))
    assert field.default is not MISSING
    return field.default


def option(of: type[Settings] | type[Execution], name: str, **how: Any) -> Decorator[Any]:
    """A decorator that adds the option of a field; `how` goes to click."""
    how.setdefault("show_default", True)
    return click.option(f"--{name.replace('_', '-')}", default=_default(of, name), **how)

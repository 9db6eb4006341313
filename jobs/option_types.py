"""What values of options may look like, where click has no type of its own for them."""

from __future__ import annotations

from typing import Any

import click

from pipeline.errors import UsageError
from pipeline.settings import format_replicas
from pipeline.share import Share


class Written(click.ParamType):
    """A type whose values can be written as they were given."""

    def text(self, value: Any) -> str:
        return str(value)


class Bands(Written):
    """`4,3,2`: 1-based bands, in the order of the network's channels."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(band) for band in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of band numbers such as 4,3,2", param, ctx)

    def text(self, value: Any) -> str:
        return ",".join(str(band) for band in value)


class Replicas(Written):
    """`4`, or `2:8`: the fewest and the most."""

    name = "N|MIN:MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | tuple[int, int]:
        if isinstance(value, int | tuple):
            return value
        try:
            numbers = tuple(int(number) for number in value.split(":"))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 2):
            self.fail(f"{value!r} is neither a number nor MIN:MAX, such as 2:8", param, ctx)
        return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])

    def text(self, value: Any) -> str:
        return format_replicas(value)


class Shards(Written):
    """`1/4`."""

    name = "I/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Share:
        if isinstance(value, Share):
            return value
        try:
            return Share.parse(value)
        except UsageError as error:
            self.fail(str(error).partition(": ")[2], param, ctx)

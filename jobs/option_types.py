"""Types of option values that click does not have: lists of bands and of numbers, ranges of
replicas, shares."""

from __future__ import annotations

from typing import Any

import click

from pipeline.errors import UsageError
from pipeline.settings import FILE, format_replicas
from pipeline.share import Share


class Written(click.ParamType):
    """A type whose values can be written back as the command line takes them."""

    def text(self, value: Any) -> str:
        return str(value)


class Bands(Written):
    """Band numbers such as `4,3,2`, counted from 1, in the order of the network's channels."""

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


class Numbers(Written):
    """Numbers such as `0.485,0.456,0.406`, one per channel of the network."""

    name = "LIST"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return tuple(float(number) for number in value)
        try:
            return tuple(float(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 0.485,0.456,0.406", param, ctx)

    def text(self, value: Any) -> str:
        return ",".join(str(number) for number in value)


class Scale(Written):
    """A number, or `file`."""

    name = "NUMBER|file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        if value == FILE:
            return FILE
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor the word {FILE}.", param, ctx)


class Replicas(Written):
    """A number of replicas, `4`, or the minimum and maximum of a pool, `2:8`."""

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
            self.fail(f"{value!r} is neither a number nor MIN:MAX, such as 2:8.", param, ctx)
        return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])

    def text(self, value: Any) -> str:
        return format_replicas(value)


class Shards(Written):
    """A share of the shards, such as `1/4`."""

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

"""The registry of options and arguments that commands share. Knows click and Settings only.

One option, one meaning, one help text: a command picks from here. Defaults are those of
pipeline.settings, so that the commands and Python agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from pipeline.access import Access
from pipeline.settings import DTYPES, Execution, Settings

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]


class Written(click.ParamType):
    """A type whose values can be written as they were given."""

    def text(self, value: Any) -> str:
        raise NotImplementedError


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


def _default(of: type[Settings] | type[Execution], name: str) -> Any:
    (field,) = (field for field in fields(of) if field.name == name.replace("-", "_"))
    assert field.default is not MISSING
    return field.default


def _option(of: type[Settings] | type[Execution], name: str, **how: Any) -> Decorator[Any]:
    how.setdefault("show_default", True)
    return click.option(f"--{name.replace('_', '-')}", default=_default(of, name), **how)


inputs_arg = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
output_arg = click.argument("output", metavar="OUT")

checkpoint_opt = click.option(
    "--checkpoint",
    required=True,
    metavar="C",
    help="SegFormer checkpoint, local or an fsspec URL: a folder in transformers' format, or a file"
    " of weights of transformers, NVlabs or mmsegmentation. See `swath model inspect`.",
)
output_opt = click.option(
    "--output",
    required=True,
    metavar="OUT",
    help="Folder of the tables; created if it is not there. The same command on it goes on where"
    " the last one stopped.",
)
planned_output_opt = click.option(
    "--output",
    metavar="OUT",
    default=None,
    show_default="none",
    help="Folder of an earlier run: count only what is still to do in it.",
)
format_opt = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How the result is printed. json: one JSON object and nothing else on stdout.",
)
storage_opt = click.option(
    "--storage-options",
    metavar="JSON",
    default=None,
    show_default="none: the standard AWS_* variables and profiles",
    help="What fsspec is told about remote files, without credentials:"
    ' {"endpoint_url": "https://...", "requester_pays": true, "anon": true, "profile": "..."}.',
)

SETTINGS: tuple[Decorator[Any], ...] = (
    _option(
        Settings,
        "window",
        type=int,
        metavar="PX",
        help="Edge of the square that the network sees, in pixels.",
    ),
    _option(
        Settings,
        "stride",
        type=int,
        metavar="PX",
        help="Step between windows, in pixels; they overlap by window - stride.",
    ),
    _option(
        Settings,
        "dtype",
        type=click.Choice(DTYPES),
        help="Arithmetic of the network. Only float32 keeps the promise of exactness.",
    ),
    _option(
        Settings,
        "batch",
        type=int,
        metavar="N",
        show_default="chosen for the device, then recorded",
        help="Windows per forward pass, a count.",
    ),
    _option(
        Settings,
        "bands",
        type=Bands(),
        show_default="by colour interpretation, else the first ones",
        help="The input's band for each channel of the network, counted from 1: 4,3,2.",
    ),
    _option(
        Settings,
        "scale",
        type=float,
        show_default="none: types other than uint8 need it",
        help="What stored values that are not uint8 are multiplied by, no unit: the network expects"
        " value * scale + offset to lie between 0 and 1. 0.0001 for Sentinel-2.",
    ),
    _option(
        Settings,
        "offset",
        type=float,
        show_default="0",
        help="What is added after --scale, no unit.",
    ),
    _option(
        Settings,
        "nodata",
        type=float,
        metavar="VALUE",
        show_default="what each file says",
        help="Stored value that means no data, in every input; nan is a value too.",
    ),
)
EXECUTION: tuple[Decorator[Any], ...] = (
    _option(
        Execution,
        "block",
        type=int,
        metavar="PX",
        show_default="planned from time and replicas",
        help="Edge of a block's core, in pixels, a multiple of 512. Does not change the result.",
    ),
    _option(
        Execution,
        "replicas",
        type=int,
        metavar="N",
        show_default="one per GPU, or one per CPU core",
        help="Loaded models at work, a count. Does not change the result.",
    ),
    _option(
        Execution,
        "runner",
        type=click.Choice(["ray", "local"]),
        help="ray: on Ray Data; local: a plain loop in this process. Same result.",
    ),
    _option(
        Execution,
        "address",
        metavar="URL",
        show_default="none: Ray is started on this machine",
        help="Ray cluster to join.",
    ),
    _option(
        Execution,
        "unit-timeout",
        type=float,
        metavar="S",
        help="Seconds after which reading or segmenting a unit is taken to hang: its process is"
        " ended, and what hangs again alone goes to quarantine. Waiting for a store does not count."
        " Runner ray only.",
    ),
    _option(
        Execution,
        "max_quarantined",
        type=int,
        metavar="N",
        show_default="100, or 1 % of the inputs where that is more",
        help="Stop when more inputs than this are in quarantine, a count, and say what they have in"
        " common; with a larger N the run goes on.",
    ),
    _option(
        Execution,
        "retry_quarantined",
        is_flag=True,
        show_default="only those whose files have changed",
        help="Try again what an earlier run left in quarantine, partial scenes as a whole; the new"
        " rows take the place of the old ones.",
    ),
    storage_opt,
)


def settings_options(command: F) -> F:
    """Add the options that decide the result. They are recorded; OUT refuses a change."""
    return _add(command, SETTINGS)


def execution_options(command: F) -> F:
    """Add the options that do not decide the result."""
    return _add(command, EXECUTION)


def parse(options: Mapping[str, Any]) -> tuple[Settings, Execution]:
    """What click parsed, as the pipeline's nouns. UsageError for values that cannot be."""
    settings = {field.name: options[field.name] for field in fields(Settings)}
    plain = [field.name for field in fields(Execution) if field.name != "access"]
    execution = {name: options[name] for name in plain}
    access = Access.parse(options["storage_options"])
    return Settings(**settings), Execution(**execution, access=access)


def _add(command: F, options: tuple[Decorator[Any], ...]) -> F:
    # Decorators apply from the bottom up; help lists options from the top down.
    for option in reversed(options):
        command = option(command)
    return command

"""The registry of options and arguments that commands share. Knows click and Settings only.

One option, one meaning, one help text: a command picks from here. Defaults are those of
pipeline.settings, so that the commands and Python agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import click

from jobs.execution_options import EXECUTION
from jobs.job_file_option import place_of
from jobs.option_decorator import Decorator, F, option
from jobs.option_types import Bands
from pipeline.errors import UsageError
from pipeline.settings import DTYPES, Execution, Settings
from pipeline.storage.access import Access

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
    help="Folder of an earlier run: say what is done in it, and count only what is still to do.",
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
    option(
        Settings,
        "window",
        type=int,
        metavar="PX",
        help="Edge of the square that the network sees, in pixels.",
    ),
    option(
        Settings,
        "stride",
        type=int,
        metavar="PX",
        help="Step between windows, in pixels; they overlap by window - stride.",
    ),
    option(
        Settings,
        "dtype",
        type=click.Choice(DTYPES),
        help="Arithmetic of the network. Only float32 keeps the promise of exactness; on CPUs"
        " without AMX it is also the fastest.",
    ),
    option(
        Settings,
        "batch",
        type=int,
        metavar="N",
        show_default="chosen for the device, then recorded",
        help="Windows per forward pass, a count; a unit's last batch is filled up, which takes as"
        " long. On GPUs it is tried before OUT is created: by default the largest of 32, 16, 8, 4,"
        " 2 and 1 that fits; one that is named and does not fit is refused.",
    ),
    option(
        Settings,
        "bands",
        type=Bands(),
        show_default="by colour interpretation, else the first ones",
        help="The input's band for each channel of the network, counted from 1: 4,3,2.",
    ),
    option(
        Settings,
        "scale",
        type=float,
        show_default="none: types other than uint8 need it",
        help="What stored values that are not uint8 are multiplied by, no unit: the network expects"
        " value * scale + offset to lie between 0 and 1. 0.0001 for Sentinel-2.",
    ),
    option(
        Settings,
        "offset",
        type=float,
        show_default="0",
        help="What is added after --scale, no unit.",
    ),
    option(
        Settings,
        "nodata",
        type=float,
        metavar="VALUE",
        show_default="what each file says",
        help="Stored value that means no data, in every input; nan is a value too.",
    ),
)


def settings_options(command: F) -> F:
    """Add the options that decide the result. They are recorded; OUT refuses a change."""
    return add(command, SETTINGS)


def execution_options(command: F) -> F:
    """Add the options that do not decide the result."""
    return add(command, (*EXECUTION, storage_opt))


def parse(options: Mapping[str, Any]) -> tuple[Settings, Execution]:
    """What click parsed, as the pipeline's nouns. UsageError for values that cannot be."""
    settings = {field.name: options[field.name] for field in fields(Settings)}
    plain = [field.name for field in fields(Execution) if field.name != "access"]
    execution = {name: options[name] for name in plain}
    try:
        access = Access.parse(options["storage_options"])
        return Settings(**settings), Execution(**execution, access=access)
    except UsageError as error:
        ctx, named = click.get_current_context(), re.findall(r"--[a-z-]+", str(error))
        place = next(filter(None, (place_of(ctx, option) for option in named)), "")
        raise UsageError(f"{place}{error}") from error


def add(command: F, options: tuple[Decorator[Any], ...]) -> F:
    # Decorators apply from the bottom up; help lists options from the top down.
    for decorate in reversed(options):
        command = decorate(command)
    return command

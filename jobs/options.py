"""The registry of the options and arguments that commands share. Knows click and Settings only.

One option, one meaning, one help text: commands pick from here. Defaults are those of
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
from jobs.option_types import Bands, Numbers, Scale
from pipeline.errors import UsageError
from pipeline.settings import ALPHA, DTYPES, Execution, Settings
from pipeline.storage.access import Access
from segformer.checkpoints.variants import WEIGHTS

inputs_arg = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
output_arg = click.argument("output", metavar="OUT")

checkpoint_opt = click.option(
    "--checkpoint",
    required=True,
    metavar="C",
    help="SegFormer checkpoint, local or an fsspec URL: a folder in the format of transformers or"
    " segmentation_models_pytorch, or a file of weights from these, from NVlabs or mmsegmentation;"
    " or hf:ORG/NAME[@REVISION] on the Hugging Face Hub. See `swath model inspect`.",
)
output_opt = click.option(
    "--output",
    required=True,
    metavar="OUT",
    help="Folder for the tables, created if it does not exist. The same command on it resumes"
    " where the last one stopped.",
)
planned_output_opt = click.option(
    "--output",
    metavar="OUT",
    default=None,
    show_default="none",
    help="Output of an earlier run: report what is done there, and count only what is left.",
)
format_opt = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of the result. json: one JSON object and nothing else on stdout.",
)
storage_opt = click.option(
    "--storage-options",
    metavar="JSON",
    default=None,
    show_default="none: the standard AWS_* variables and profiles",
    help="Options for fsspec about remote files, without credentials:"
    ' {"endpoint_url": "https://...", "requester_pays": true, "anon": true, "profile": "..."}.',
)

READING: tuple[Decorator[Any], ...] = (
    option(
        Settings,
        "mean",
        type=Numbers(),
        show_default="the checkpoint's, else ImageNet's",
        help="Mean of each channel, of values after --rescale or --scale: 0.485,0.456,0.406.",
    ),
    option(
        Settings,
        "std",
        type=Numbers(),
        show_default="the checkpoint's, else ImageNet's",
        help="Standard deviation of each channel, in the same unit: the network gets (value - mean)"
        " / std.",
    ),
    option(
        Settings,
        "rescale",
        type=float,
        metavar="F",
        show_default="the checkpoint's, mostly 1/255",
        help="Factor for stored values that are uint8, no unit; all other types have --scale.",
    ),
    option(
        Settings,
        "weights",
        type=click.Choice(WEIGHTS),
        show_default="raw; an average where its program, as mmengine and Lightning, keeps it as the"
        " weights",
        help="Which weights of a checkpoint that holds both are run: raw, as they were trained, or"
        " ema, their average.",
    ),
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
        help="Step between windows, in pixels; windows overlap by window - stride.",
    ),
    option(
        Settings,
        "dtype",
        type=click.Choice(DTYPES),
        help="Arithmetic of the network. Only float32 keeps the promise of exact masks. On CPUs"
        " bfloat16 is faster if /proc/cpuinfo has amx_bf16, or avx512_bf16 on a processor of AMD's;"
        " on all others, those of Intel's with avx512_bf16 alone among them, float32 is the"
        " fastest. swath plan --calibrate measures both.",
    ),
    option(
        Settings,
        "batch",
        type=int,
        metavar="N",
        show_default="chosen for the device, then recorded",
        help="Windows per forward pass, a count; a unit's last batch is padded and takes as long"
        " as a full one. On GPUs it is tried before OUT is created: the default is the largest of"
        " 32, 16, 8, 4, 2 and 1 that fits; a given one that does not fit is refused.",
    ),
    option(
        Settings,
        "bands",
        type=Bands(),
        show_default="by color interpretation, else the first bands",
        help="The input's band for each channel of the network, counted from 1: 4,3,2.",
    ),
    option(
        Settings,
        "alpha",
        type=click.Choice(ALPHA),
        show_default="alpha; a fourth band of 8 bits is judged by its values",
        help="What a band is that GDAL calls alpha. band: it says which pixels are valid. data: it"
        " is a channel like others, such as near infrared.",
    ),
    option(
        Settings,
        "scale",
        type=Scale(),
        show_default="none: required for types other than uint8",
        help="Factor for stored values that are not uint8, no unit: value * scale + offset is what"
        " the network was trained on, mostly 0 to 1. 0.0001 for Sentinel-2. file: the scale and"
        " offset that each file states for its bands, those of 8 bits included.",
    ),
    option(
        Settings,
        "offset",
        type=float,
        show_default="0",
        help="Number added after --scale, no unit.",
    ),
    option(
        Settings,
        "nodata",
        type=float,
        metavar="VALUE",
        show_default="as each file says",
        help="Stored value that means no data in every input; nan is allowed.",
    ),
    *READING,
)


def settings_options(command: F) -> F:
    """Add the options that decide the result. They are recorded; OUT refuses a change."""
    return add(command, SETTINGS)


def reading_options(command: F) -> F:
    """Add the options that say how a checkpoint is read: the normalization, which weights."""
    return add(command, READING)


def execution_options(command: F) -> F:
    """Add the options that do not decide the result."""
    return add(command, (*EXECUTION, storage_opt))


def parse(options: Mapping[str, Any]) -> tuple[Settings, Execution]:
    """The parsed options as Settings and Execution. Raises UsageError for impossible values."""
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
    # Decorators apply from the bottom up, help lists options from the top down.
    for decorate in reversed(options):
        command = decorate(command)
    return command

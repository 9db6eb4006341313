"""`--job FILE`: a job file gives the defaults of a command's arguments and options.

Knows click, and adds the line of the file to error messages; the rules of the file itself are in
pipeline.job_file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from pipeline.errors import UsageError
from pipeline.job_file import JobFile
from pipeline.storage.access import Access

_JOB = "swath.job"
"""The key under which a command's context keeps its JobFile."""


class _JobOption(click.Option):
    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        assert self.name is not None
        if name := opts.get(self.name):
            # The storage options in the file are for the paths in it, not for the file itself.
            access = Access.parse(opts.get("storage_options"))
            _take(ctx, JobFile.read(name, access.impatient()))
        return super().handle_parse_result(ctx, opts, args)


job_opt = click.option(
    "--job",
    cls=_JobOption,
    metavar="FILE",
    default=None,
    show_default="none",
    is_eager=True,
    expose_value=False,
    help="TOML file, local or an fsspec URL, that gives INPUT, checkpoint, output and options by"
    " name; command-line options take precedence. Every run writes one to OUT/job.toml.",
)


def _take(ctx: click.Context, job: JobFile) -> None:
    values = {key.replace("-", "_"): value for key, value in job.values.items()}
    if "storage_options" in values:
        values["storage_options"] = json.dumps(values["storage_options"], default=str)
    for name in {"bands", "mean", "std"} & values.keys():
        values[name] = tuple(values[name])
    ctx.meta[_JOB], ctx.default_map = job, values


def refuse(ctx: click.Context, key: str, value: object, why: str) -> None:
    """Raises UsageError, with the line, if the job file gives the key this value."""
    job = ctx.meta.get(_JOB)
    if job is not None and job.values.get(key) == value:
        raise UsageError(f"{job.place(key)}: {key} = {json.dumps(value)}: {why}")


def place_of(ctx: click.Context, option: str) -> str:
    """The prefix `job.toml, line 7: ` if the option's value comes from the job file, else
    nothing."""
    job, key = ctx.meta.get(_JOB), option.removeprefix("--")
    source = ctx.get_parameter_source(key.replace("-", "_"))
    if job is None or source is not ParameterSource.DEFAULT_MAP:
        return ""
    return f"{job.place(key)}: "


def located_message(error: click.ClickException) -> str:
    """Click's message, with the line of the job file if the value comes from there."""
    message = error.format_message()
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None:
        return message
    job, key = error.ctx.meta.get(_JOB), str(error.param.name).replace("_", "-")
    if job is not None and isinstance(error, click.MissingParameter):
        return f"{job.name}: {key} is missing; add it, or give it on the command line."
    return f"{place_of(error.ctx, key)}{message}"

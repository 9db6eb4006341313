"""`swath plan`: what would be done, and what it would take. Parses, calls, prints."""

from __future__ import annotations

import sys
from typing import Any

import click

from jobs import options, text
from jobs.jobfile import job_opt
from jobs.progress import ProgressLine
from pipeline.receipt import Estimate, Failure


@click.command()
@options.inputs_arg
@options.checkpoint_opt
@options.planned_output_opt
@options.format_opt
@job_opt
@options.settings_options
@options.execution_options
def plan(
    inputs: tuple[str, ...], checkpoint: str, output: str | None, form: str, **parsed: Any
) -> None:
    """Say what `run` would do with INPUT..., and what it would take.

    INPUT is an image, a folder of images or a glob; local or an fsspec URL. Only headers are
    read, nothing is written.
    """
    settings, execution = options.parse(parsed)
    with ProgressLine(sys.stderr) as progress:
        progress.reading()
        from pipeline import job  # noqa: PLC0415  torch takes seconds; refusals need not wait for it

        estimate = job.plan(inputs, checkpoint, settings, execution, output, progress.described)
    click.echo(text.to_json(estimate.to_json()) if form == "json" else render(estimate))


def render(estimate: Estimate) -> str:
    """The estimate for a reader."""
    again = estimate.windows_computed / estimate.windows if estimate.windows else 1.0
    lines = [
        ("inputs", f"{estimate.inputs:,}"),
        ("scenes", f"{estimate.scenes:,}"),
        ("rejected", f"{len(estimate.rejected):,}"),
        ("units", f"{estimate.units:,}"),
        (
            "windows",
            f"{estimate.windows:,} (computed: {estimate.windows_computed:,}, x{again:.2f})",
        ),
        ("pixels", text.megapixels(estimate.megapixels)),
        ("area", "unknown: no CRS" if estimate.km2 is None else f"{estimate.km2:,.1f} km2"),
        ("to read", text.size(estimate.read_bytes)),
        (
            "memory",
            f"{text.size(estimate.memory['total'])}, of which {text.size(estimate.memory_bytes)}"
            " per replica",
        ),
        (
            "time",
            f"{text.duration(estimate.hours * 3600)} with"
            f" {text.count(estimate.replicas, 'replica')} on {estimate.device}, without start-up",
        ),
        ("batch", f"{estimate.batch:,} windows"),
    ]
    parts = [text.aligned(lines), *(f"note: {note}" for note in estimate.notes)]
    parts += [_rejection(failure) for failure in estimate.rejected]
    return "\n".join(parts)


def _rejection(failure: Failure) -> str:
    # Most messages name the file themselves.
    where = "" if failure.url in failure.message else f"{failure.url}: "
    return f"rejected: {where}{failure.message} ({failure.stage}, {failure.error})"

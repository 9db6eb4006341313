"""`swath run`: runs a job, with one live line of progress. Parses, calls, prints."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from jobs import options, text
from jobs.job_file_option import job_opt
from jobs.progress import ProgressLine
from pipeline.driver.loop_process import open_loop
from pipeline.receipt import Receipt

QUARANTINED = 3
"""The exit code of a run that is done, with something in quarantine."""
STARTING = {
    "ray": "starting Ray, loading the model, computing the first units ...",
    "local": "loading the model, computing the first unit ...",
    "auto": "loading the model, computing the first unit ...",
}
"""The message while no unit has an outcome, by runner."""


@click.command(
    epilog=(
        "Exit codes: 0 done; 1 failed or unfinished (the same command resumes); 2 cannot be"
        " carried out as given; 3 done, with something in quarantine."
    )
)
@options.inputs_arg
@options.checkpoint_opt
@options.output_opt
@job_opt
@options.settings_options
@options.execution_options
@click.pass_context
def run(
    ctx: click.Context, inputs: tuple[str, ...], checkpoint: str, output: str, **parsed: Any
) -> None:
    """Segment INPUT... into tables in OUT.

    INPUT is an image, a folder of images or a glob; local or an fsspec URL. After Ctrl-C or a
    crash the same command resumes where the run stopped. It also adds new files of a folder, and
    retries quarantined files that have been fixed. The receipt goes to stdout, progress to stderr.
    """
    settings, execution = options.parse(parsed)
    with ProgressLine(sys.stderr, STARTING[execution.runner]) as progress:
        progress.reading()
        with open_loop(checkpoint, settings, execution) as loop:  # imports while we do
            from pipeline import api  # noqa: PLC0415  refusals need not wait for it

            request = api.Request(inputs, checkpoint, settings, execution, progress.described, loop)
            receipt = api.run_request(request, output, progress)
    click.echo(render(receipt))
    if receipt.failures:
        count = text.count(len(receipt.failures), "row")
        see = f'swath query {shlex.quote(output)} "SELECT * FROM quarantine"'
        click.echo(f"swath: done, with {count} in quarantine: {see}", err=True)
        ctx.exit(QUARANTINED)


def render(receipt: Receipt) -> str:
    """The receipt as lines of text."""
    scenes = [f"{receipt.scenes_done:,} done"]
    scenes += [f"{receipt.scenes_partial:,} partial"] if receipt.scenes_partial else []
    scenes += [f"{receipt.scenes_quarantined:,} quarantined"] if receipt.scenes_quarantined else []
    earlier = receipt.units - receipt.units_computed
    lines = [
        ("output", receipt.output),
        ("scenes", f"{receipt.scenes_planned:,} planned: {', '.join(scenes)}"),
        ("quarantine", text.count(len(receipt.failures), "row")),
        (
            "units",
            f"{receipt.units_computed:,} computed"
            + (f", {earlier:,} done by earlier runs" if earlier else ""),
        ),
    ]
    if receipt.bounded_by is None:
        lines.append(("time", f"{text.duration(receipt.seconds)}; there was nothing to do"))
    else:
        lines += _work(receipt)
    if receipt.cost is not None:
        lines.append(("cost", text.cost(receipt.cost, receipt.cost_per_1000_km2)))
    if receipt.retries:
        lines.append(("retries", f"{receipt.retries:,} of reads, writes and listings"))
    if receipt.pixels_without_area:
        lines.append(
            ("no area", f"{receipt.pixels_without_area:,} px outside the domain of their CRS")
        )
    return text.aligned(lines)


def _work(receipt: Receipt) -> list[tuple[str, str]]:
    """The lines about what this run has computed."""
    stages = {
        "read": receipt.read_s,
        "segment": receipt.segment_s,
        "finish": receipt.finish_s,
        "publish": receipt.publish_s,
    }
    spent = ", ".join(f"{name} {text.duration(s)}" for name, s in stages.items())
    startup = text.duration(receipt.startup_s)
    parts = ", ".join(f"{part} {text.duration(s)}" for part, s in receipt.startup.items())
    lines = [
        (
            "windows",
            f"{receipt.windows:,} of the grid, {receipt.windows_computed:,} computed",
        ),
        ("pixels", text.megapixels(receipt.megapixels)),
        ("time", f"{text.duration(receipt.seconds)}, of which start-up {startup}: {parts}"),
        ("stages", f"{spent}, summed over processes"),
        (
            "rate",
            f"{text.rate(receipt.megapixels_per_s)} per replica, without start-up"
            f" {text.rate(receipt.megapixels_per_s_steady)}",
        ),
        ("bound by", f"{receipt.bounded_by}; faster with {receipt.relief}"),
        ("on", _replicas(receipt)),
    ]
    if receipt.km2 is not None:
        lines.append(("area", f"{receipt.km2:,.1f} km2"))
    return lines


def _replicas(receipt: Receipt) -> str:
    """How many replicas ran, on which device, and how busy they were."""
    count = text.count(receipt.replicas, "replica")
    parts = [f"{count} on {receipt.device}, runner {receipt.runner}"]
    if receipt.busy is not None:
        parts.append(f"busy {receipt.busy:.0%} of the time after start-up")
    if receipt.gpu_utilisation is not None:
        parts.append(f"GPU utilization {receipt.gpu_utilisation:.0%}")
    if receipt.gpu_memory_bytes is not None:
        parts.append(f"{text.size(receipt.gpu_memory_bytes)} of GPU memory")
    return ", ".join(parts)

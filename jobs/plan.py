"""`swath plan`: what a run would do, and what it would take. Parses, calls, prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from jobs import options, text
from jobs.job_file_option import job_opt
from jobs.progress import ProgressLine
from jobs.trial_options import parse_trial, trial_options
from pipeline.driver.loop_process import open_loop
from pipeline.estimate import EarlierRuns, Estimate, Rate, Sample
from pipeline.failure import Failure

SHOWN = 4
"""The number of classes of a sample that the table shows; JSON has all."""


@click.command()
@options.inputs_arg
@options.checkpoint_opt
@options.planned_output_opt
@options.format_opt
@job_opt
@options.settings_options
@trial_options
@options.execution_options
def plan(
    inputs: tuple[str, ...], checkpoint: str, output: str | None, form: str, **parsed: Any
) -> None:
    """Estimate what `run` would do with INPUT..., and what it would take.

    INPUT is an image, a folder of images or a glob; local or an fsspec URL. Reads only headers and
    writes nothing, unless --calibrate or --sample ask for more.
    """
    settings, execution = options.parse(parsed)
    trial = parse_trial(parsed)
    with ProgressLine(sys.stderr) as progress:
        progress.reading()
        with open_loop(checkpoint, settings, execution) as loop:  # imports while we do
            from pipeline import api  # noqa: PLC0415  refusals need not wait for it

            request = api.Request(inputs, checkpoint, settings, execution, progress.described, loop)
            estimate = api.plan_request(request, output, trial)
    click.echo(text.to_json(estimate.to_json()) if form == "json" else render(estimate))


def render(estimate: Estimate) -> str:
    """The estimate as lines of text."""
    again = estimate.windows_computed / estimate.windows if estimate.windows else 1.0
    lines = [
        ("inputs", f"{estimate.inputs:,}"),
        ("scenes", _scenes(estimate)),
        *_earlier(estimate.earlier),
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
        ("rate", _rate(estimate.rate)),
        (
            "time",
            f"{text.duration(estimate.hours * 3600)} with"
            f" {text.count(estimate.replicas, 'replica')} on {estimate.device}, without start-up",
        ),
        ("batch", text.count(estimate.batch, "window")),
    ]
    if estimate.cost is not None:
        lines.append(("cost", text.cost(estimate.cost, estimate.cost_per_1000_km2)))
    parts = [text.aligned(lines)]
    if estimate.samples:
        parts.append(_samples(estimate.samples))
    parts += [f"note: {note}" for note in estimate.notes]
    parts += [_quarantined(failure) for failure in estimate.failures]
    return "\n".join(parts)


def _scenes(estimate: Estimate) -> str:
    bad = len(estimate.failures)
    return f"{estimate.scenes:,} to segment" + (f", {bad:,} would be quarantined" if bad else "")


def _earlier(runs: EarlierRuns | None) -> list[tuple[str, str]]:
    if runs is None:
        return []
    bad = text.count(runs.scenes_quarantined, "scene")
    return [
        ("done", f"{text.megapixels(runs.megapixels_done)} by earlier runs"),
        ("quarantined", f"{text.megapixels(runs.megapixels_quarantined)}, {bad} by earlier runs"),
    ]


def _rate(rate: Rate) -> str:
    """The rate from which the time is estimated."""
    each = f"{text.significant(rate.window_s)} s per window and replica"
    if not rate.measured:
        return f"{each}, nominal; --calibrate measures it"
    many = text.count(rate.replicas, "replica")
    at_once = " at once" if rate.replicas > 1 else ""
    return f"{each}, measured here with {many}{at_once}"


def _samples(samples: Sequence[Sample]) -> str:
    """A line per sample: its picture, how confident the network is, its classes and its block."""
    rows = [("sample", "confidence", "values", "classes", "block")]
    for sample in samples:
        shares = [f"{name} {_share(share)}" for name, share in sample.shares.items()]
        more = [f"{len(shares) - SHOWN} more"] if len(shares) > SHOWN else []
        sure = sample.mean_confidence
        low, high = map(text.significant, sample.values)
        rows.append(
            (
                sample.picture,
                "unknown" if sure is None else f"{sure:.2f}",
                f"{low} to {high}",
                ", ".join([*shares[:SHOWN], *more]),
                f"{sample.scene_id} {sample.window}",
            )
        )
    return text.columns(rows)


def _share(share: float) -> str:
    return "<1%" if share < 0.005 else f"{share:.0%}"


def _quarantined(failure: Failure) -> str:
    # Most messages name the file already.
    where = "" if failure.url in failure.message else f"{failure.url}: "
    return f"would be quarantined: {where}{failure.message} ({failure.stage}, {failure.error})"

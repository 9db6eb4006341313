"""`swath status`: how far a job is, by the output's own records. Parses, calls, prints."""

from __future__ import annotations

from typing import Any

import click

from jobs import options, text
from pipeline.receipt import DONE, Status
from pipeline.storage.access import Access

RUNS = 5
"""The number of runs that get a line each; --format json has all."""


@click.command()
@options.output_arg
@options.format_opt
@options.storage_opt
def status(output: str, form: str, storage_options: str | None) -> None:
    """Say how far the job in OUT is, from its records alone.

    Needs no cluster and disturbs no run. Exits with 0 whether the job is finished or not.
    """
    from pipeline.output.status import status as read_status  # noqa: PLC0415  so that help does not wait for it

    report = read_status(output, Access.parse(storage_options))
    click.echo(text.to_json(report.to_json()) if form == "json" else render(report))


def render(report: Status) -> str:
    """The status as lines of text."""
    job = report.settings
    settings = {
        name: ",".join(map(str, value)) if isinstance(value, list | tuple) else value
        for name, value in job["settings"].items()
        if value is not None
    }
    open_units = report.units - report.units_done
    lines = [
        ("output", report.output),
        ("state", _state(report)),
        ("at work", _at_work(report)),
        ("done", _share(report.megapixels_done, report)),
        ("open", f"{_share(report.megapixels_open, report)}, {text.count(open_units, 'unit')}"),
        ("quarantined", f"{_share(report.megapixels_quarantined, report)}, {_rows(report)}"),
        ("planned", text.megapixels(report.megapixels)),
        ("units", f"{report.units_done:,} of {report.units:,} have an outcome"),
        ("shards", f"{report.shards_published:,} of {report.shards:,} published"),
        ("scenes", f"{report.scenes_published:,} of {report.scenes:,} published"),
        ("settings", ", ".join(f"{name} {value}" for name, value in settings.items())),
        ("checkpoint", job["checkpoint"]),
        ("device", job["device"]),
        ("runs", _count(report)),
    ]
    lines += [("", _run(receipt)) for receipt in report.runs[-RUNS:]]
    return text.aligned(lines)


def _state(report: Status) -> str:
    if report.finished:
        return "finished"
    return "unfinished" if report.at_work else "unfinished: the same `swath run` resumes"


def _at_work(report: Status) -> str:
    """The running drivers: where and since when."""
    if report.died:
        return "nobody; the latest run left no receipt: it was killed, or its store was gone"
    return "; ".join(map(str, report.at_work)) or "nobody"


def _share(megapixels: float, report: Status) -> str:
    """Megapixels and their share of the plan: 0 % and 100 % only if that is exact."""
    share = megapixels / report.megapixels if report.megapixels else 0.0
    percent = round(100 * share)
    if 0 < share < 1:
        percent = min(max(percent, 1), 99)
    return f"{text.megapixels(megapixels)}, {percent}%"


def _rows(report: Status) -> str:
    more = f", {report.quarantined_waiting:,} more to come" if report.quarantined_waiting else ""
    return f"{text.count(report.quarantined, 'row')}{more}"


def _count(report: Status) -> str:
    """The number of runs, how many of them left no receipt, and how many are listed."""
    early = sum(receipt.get("ended", DONE) != DONE for receipt in report.runs)
    silent = report.runs_without_receipt
    at_work = min(silent, len(report.at_work))
    parts = [f"{len(report.runs) + silent:,}"]
    if early:
        parts.append(f"{early:,} of them ended early")
    if at_work:
        parts.append(f"{at_work:,} at work")
    if silent > at_work:
        parts.append(f"{silent - at_work:,} ended without a receipt")
    if len(report.runs) > RUNS:
        parts.append(f"the last {RUNS}")
    return ", ".join(parts) + (":" if report.runs else "")


def _run(receipt: dict[str, Any]) -> str:
    """A receipt in one line."""
    parts = [
        f"{receipt['started']}: {text.megapixels(receipt['megapixels'])}"
        f" in {text.duration(receipt['seconds'])}"
    ]
    if receipt["bounded_by"] is None:
        parts.append("there was nothing to do")
    else:
        parts.append(f"{text.rate(receipt['megapixels_per_s'])} per replica")
        parts.append(f"bound by {receipt['bounded_by']}")
    if receipt.get("cost") is not None:
        parts.append(f"cost {text.cost(receipt['cost'], receipt['cost_per_1000_km2'])}")
    if receipt.get("ended", DONE) != DONE:
        parts.append(f"ended early: {receipt['ended']}")
    return ", ".join(parts)

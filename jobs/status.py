"""`swath status`: what an output's own records say. Parses, calls, prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from jobs import options, text
from pipeline.access import Access
from pipeline.receipt import DONE, Status


@click.command()
@options.output_arg
@options.format_opt
@options.storage_opt
def status(output: str, form: str, storage_options: str | None) -> None:
    """Say how far the job in OUT has come, from its records alone.

    Needs no cluster and disturbs no run. Exits with 0 whether the job is finished or not.
    """
    from pipeline.status import status as ask  # noqa: PLC0415  so that help does not wait for it

    report = ask(output, Access.parse(storage_options))
    click.echo(text.to_json(report.to_json()) if form == "json" else render(report))


def _runs(receipts: Sequence[dict[str, Any]]) -> str:
    """How many, and how the last one ended if not well."""
    early = [receipt for receipt in receipts if receipt.get("ended", DONE) != DONE]
    if not early:
        return f"{len(receipts):,}"
    last = receipts[-1].get("ended", DONE)
    why = "" if last == DONE else f"; the last: {last}"
    return f"{len(receipts):,}, of which {len(early):,} ended early{why}"


def render(report: Status) -> str:
    """The status for a reader."""
    job = report.settings
    given = {name: value for name, value in job["settings"].items() if value is not None}
    px = (report.megapixels_done, report.megapixels_quarantined, report.megapixels)
    lines = [
        ("output", report.output),
        ("state", "finished" if report.finished else "unfinished: the same `swath run` goes on"),
        ("pixels", text.pixels(*px)),
        ("units", f"{report.units_done:,} of {report.units:,}"),
        ("shards", f"{report.shards_published:,} of {report.shards:,} published"),
        ("scenes", f"{report.scenes_published:,} of {report.scenes:,} published"),
        ("quarantine", text.count(report.quarantined, "row")),
        ("settings", ", ".join(f"{name} {value}" for name, value in given.items())),
        ("checkpoint", job["checkpoint"]),
        ("device", job["device"]),
        ("runs", _runs(report.runs)),
    ]
    if report.runs:
        lines.append(("last run", _last(report.runs[-1])))
    return text.aligned(lines)


def _last(receipt: dict[str, Any]) -> str:
    """The receipt in a line."""
    parts = [
        f"{receipt['started']}: {text.megapixels(receipt['megapixels'])}"
        f" in {text.duration(receipt['seconds'])}",
        f"{text.rate(receipt['megapixels_per_s'])} per replica",
        f"bound by {receipt['bounded_by']}",
    ]
    if receipt.get("cost") is not None:
        parts.append(f"cost {text.cost(receipt['cost'], receipt['cost_per_1000_km2'])}")
    return ", ".join(parts)

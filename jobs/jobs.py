"""`swath jobs`: the jobs on a cluster, running and ended. Parses, calls, prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from jobs import cluster_options, text
from jobs.cluster_job import Job


@click.command()
@cluster_options.listing_opt
@cluster_options.dashboard_opt
def jobs(form: str, dashboard: str | None) -> None:
    """List the jobs of Swath on a cluster, the oldest first.

    Their status is Ray's: pending, running, succeeded, failed, stopped; or quarantined: done, with
    something in quarantine. Other programs' jobs are not listed. A cluster forgets its jobs when
    it ends; `swath status OUT` does not.
    """
    from jobs.dashboard import Dashboard  # noqa: PLC0415  so that help does not wait for it

    listed = Dashboard(dashboard).jobs()
    click.echo(text.to_json([facts(job) for job in listed]) if form == "json" else render(listed))


def facts(job: Job) -> dict[str, Any]:
    """A job as `--format json` prints it."""
    return {
        "id": job.job_id,
        "status": job.state,
        "output": job.output,
        "started": _moment(job),
        "seconds": round(job.seconds, 3),
        "exit_code": job.exit_code,
        "settings": job.settings,
        "version": job.version,
    }


def render(listed: Sequence[Job]) -> str:
    """A line per job."""
    rows = [
        (job.job_id, job.state, _moment(job), text.duration(job.seconds), job.output)
        for job in listed
    ]
    return text.columns([("id", "status", "started", "took", "output"), *rows])


def _moment(job: Job) -> str:
    return datetime.fromtimestamp(job.started_s, UTC).isoformat(timespec="seconds")

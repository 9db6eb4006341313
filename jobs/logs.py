"""`swath logs`: what a job on a cluster has said. Parses, calls, prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from jobs import cluster_options

if TYPE_CHECKING:
    from jobs.dashboard import Dashboard

FAILED = 1
"""Exit code of a job that ended without one: stopped, or never begun."""


@click.command(
    epilog="Exit codes with --follow: those of the job's `swath run`; 1 if it was stopped."
)
@cluster_options.job_arg
@cluster_options.follow_opt
@cluster_options.dashboard_opt
@click.pass_context
def logs(ctx: click.Context, job_id: str, follow: bool, address: str | None) -> None:
    """Print what the job ID has said: its progress, its messages, its receipt."""
    from jobs.dashboard import Dashboard  # noqa: PLC0415  so that help does not wait for it

    dashboard = Dashboard(address)
    dashboard.job(job_id)
    if follow:
        ctx.exit(follow_to_end(dashboard, job_id))
    click.echo(dashboard.log(job_id), nl=False)


def follow_to_end(dashboard: Dashboard, job_id: str) -> int:
    """Prints what the job says until it has ended; its exit code."""
    try:
        dashboard.follow(job_id, lambda lines: click.echo(lines, nl=False))
    except KeyboardInterrupt:
        click.echo(f"note: {job_id} goes on; to end it: swath stop {job_id}", err=True)
        raise
    job = dashboard.job(job_id)
    if job.status == "SUCCEEDED":
        return 0
    if job.exit_code is None:  # else the log has said why
        click.echo(f"swath: {job_id}: {job.status.lower()} {job.message}".rstrip(), err=True)
    return job.exit_code or FAILED

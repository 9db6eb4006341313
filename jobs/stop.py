"""`swath stop`: end a job on a cluster. Parses, calls, prints."""

from __future__ import annotations

import click

from jobs import cluster_options, text
from pipeline.errors import UsageError


@click.command()
@cluster_options.job_arg
@cluster_options.dashboard_opt
def stop(job_id: str, dashboard: str | None) -> None:
    """Shut the job ID down cleanly, and wait until it has ended.

    What is done is kept: the same `swath submit` resumes from there.
    """
    from jobs.dashboard import Dashboard  # noqa: PLC0415  so that help does not wait for it

    cluster = Dashboard(dashboard)
    job = cluster.job(job_id)
    if job.ended:
        raise UsageError(
            f"{job_id}: has ended already ({job.state}); there is nothing to stop. To"
            " resume, submit it again"
        )
    job = cluster.stop(job_id)
    click.echo(f"{job_id}: {job.state} after {text.duration(job.seconds)}")

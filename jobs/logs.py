"""`swath logs`: the output of a job on a cluster. Parses, calls, prints."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from jobs import cluster_options
from pipeline.errors import SwathError

if TYPE_CHECKING:
    from jobs.dashboard import Dashboard

FAILED = 1
"""The exit code for a job that ended without one: stopped, or never started."""
_AGAIN_S = 1.0
"""Seconds to wait after a stream that ended before its job."""


@click.command(
    epilog="Exit codes with --follow: those of the job's `swath run`; 1 if it was stopped."
)
@cluster_options.job_arg
@cluster_options.follow_opt
@cluster_options.dashboard_opt
@click.pass_context
def logs(ctx: click.Context, job_id: str, follow: bool, dashboard: str | None) -> None:
    """Print the output of the job ID: its progress, its messages, its receipt."""
    from jobs.dashboard import Dashboard  # noqa: PLC0415  so that help does not wait for it

    cluster = Dashboard(dashboard)
    cluster.job(job_id)
    if follow:
        ctx.exit(follow_to_end(cluster, job_id))
    click.echo(cluster.log(job_id), nl=False)


class Printer:
    """Prints a log once, although each stream of it starts from the beginning."""

    def __init__(self) -> None:
        self._printed = self._received = 0

    def begin(self) -> None:
        """Start a new stream, or the whole log."""
        self._received = 0

    def write(self, text: str) -> None:
        fresh = text[max(0, self._printed - self._received) :]
        self._received += len(text)
        if fresh:
            self._printed += len(fresh)
            click.echo(fresh, nl=False)


def follow_to_end(cluster: Dashboard, job_id: str) -> int:
    """Print the job's output until it ends, and return its exit code. A stream may end earlier:
    some proxies close connections of a certain age."""
    printer = Printer()
    try:
        cluster.follow(job_id, printer.write)
        while not (job := cluster.job(job_id)).ended:
            time.sleep(_AGAIN_S)
            printer.begin()
            cluster.follow(job_id, printer.write)
        printer.begin()
        with suppress(SwathError):  # a node that is gone has taken its log with it
            printer.write(cluster.log(job_id))
    except KeyboardInterrupt:
        click.echo(f"note: {job_id} keeps running; to stop it: swath stop {job_id}", err=True)
        raise
    if job.status == "SUCCEEDED":
        return 0
    if job.exit_code is None:  # else the log says why
        click.echo(f"swath: {job_id}: {job.status.lower()} {job.message}".rstrip(), err=True)
    return job.exit_code or FAILED

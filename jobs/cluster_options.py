"""The options of the commands that ask a cluster: like jobs/options.py, one meaning each."""

from __future__ import annotations

import click

job_arg = click.argument("job_id", metavar="ID")
dashboard_opt = click.option(
    "--address",
    "dashboard",  # not run's --address, which a job file may give
    metavar="URL",
    default=None,
    show_default="RAY_API_SERVER_ADDRESS, else RAY_ADDRESS",
    help="Dashboard of a Ray cluster, such as http://127.0.0.1:8265. If it requires a token,"
    " RAY_AUTH_TOKEN gives it.",
)
follow_opt = click.option(
    "--follow",
    is_flag=True,
    show_default="no",
    help="Print the job's output until it ends, and exit with its exit code. Ctrl-C stops the"
    " printing, not the job.",
)
listing_opt = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of the list. json: an array with one object per job, and nothing else on stdout.",
)

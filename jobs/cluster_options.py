"""The options of the commands that ask a cluster; as jobs/options.py, one meaning for each."""

from __future__ import annotations

import click

job_arg = click.argument("job_id", metavar="ID")
dashboard_opt = click.option(
    "--address",
    "dashboard",  # not run's --address, which a job file may give
    metavar="URL",
    default=None,
    show_default="RAY_API_SERVER_ADDRESS, else RAY_ADDRESS",
    help="Dashboard of a Ray cluster, such as http://127.0.0.1:8265. A token that it wants is taken"
    " from RAY_AUTH_TOKEN.",
)
follow_opt = click.option(
    "--follow",
    is_flag=True,
    show_default="no",
    help="Print what the job says until it has ended, and exit with its exit code. Ctrl-C ends the"
    " printing, not the job.",
)
listing_opt = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How the list is printed. json: an array with an object for each, and nothing else on"
    " stdout.",
)

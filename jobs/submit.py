"""`swath submit`: `swath run` as a job on a Ray cluster. Parses, calls, prints."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from jobs import cluster_options, job_file_option, options
from jobs.cluster_job import Job
from jobs.logs import follow_to_end
from jobs.option_types import Written
from jobs.run import run
from pipeline.checkpoint import hub_name
from pipeline.storage.access import Access
from segformer.checkpoints.hub.name import is_hub_name

if TYPE_CHECKING:
    from jobs.dashboard import Dashboard

THERE = ("--runner", "ray", "--address", "auto")
"""Options that `run` gets on the cluster's head."""
PARAMETERS = [parameter for parameter in run.params if f"--{parameter.name}" not in THERE]
FORWARDED = [parameter for parameter in PARAMETERS if parameter.expose_value]
"""The parameters that are sent along: not a job file, but the values in it."""


@click.command(
    params=list(PARAMETERS),
    epilog=(
        "Exit codes: 0 submitted, or running already; 2 cannot be carried out as given. With"
        " --follow those of `swath run`."
    ),
)
@cluster_options.dashboard_opt
@cluster_options.follow_opt
@click.pass_context
def submit(ctx: click.Context, dashboard: str | None, follow: bool, **parsed: Any) -> None:
    """Run a job on a Ray cluster, independently of this machine.

    Takes what `run` takes. Swath itself is sent along; the nodes need its dependencies and
    credentials in their own environment. Every node must see a local path. Prints the job's ID.
    Submitted again, a running job is left alone, and a job that has ended, however it ended,
    resumes where it stopped.
    """
    job_file_option.refuse(ctx, "runner", "local", "a submitted job runs on Ray; leave it out")
    _, execution = options.parse({**parsed, "runner": "ray", "address": None})
    values = {**parsed, **_absolute_paths(parsed, execution.access)}
    words = forwarded(ctx, values)
    for path in _local_paths(values):
        click.echo(f"note: {path} is a path: every node of the cluster must see it", err=True)

    from jobs.dashboard import Dashboard  # noqa: PLC0415  ray takes a second; refusals need not wait

    cluster = Dashboard(dashboard)
    cluster.check_version()
    job_id = _submit(cluster, words, values["output"], _settings(ctx, values))
    click.echo(job_id)
    if follow:
        ctx.exit(follow_to_end(cluster, job_id))
    click.echo(f"note: to watch it: swath logs {job_id} --follow", err=True)


def forwarded(ctx: click.Context, values: Mapping[str, Any]) -> list[str]:
    """The arguments from which `run` parses these values. Defaults are left to the cluster."""
    words = []
    for parameter in FORWARDED:
        assert parameter.name is not None
        if ctx.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
            words += _words(parameter, values[parameter.name])
    return words


def _words(parameter: click.Parameter, value: Any) -> list[str]:
    several = parameter.multiple or parameter.nargs != 1
    values = list(value) if several else [value]
    if isinstance(parameter.type, Written):
        values = [parameter.type.text(each) for each in values]
    if isinstance(parameter, click.Argument):
        return [str(each) for each in values]
    option = parameter.opts[0]
    if isinstance(parameter, click.Option) and parameter.is_flag:
        return [option] if value else list(parameter.secondary_opts[:1])
    return [word for each in values for word in (option, str(each))]


def _absolute_paths(parsed: Mapping[str, Any], access: Access) -> dict[str, Any]:
    """The paths as absolute ones. Raises UsageError for a URL that holds a credential, because the
    cluster records the arguments of its jobs."""
    checkpoint = parsed["checkpoint"]
    return {
        "inputs": tuple(access.recordable(each) for each in parsed["inputs"]),
        "checkpoint": hub_name(checkpoint) or access.recordable(checkpoint),
        "output": access.recordable(parsed["output"]),
    }


def _local_paths(values: Mapping[str, Any]) -> list[str]:
    paths = [*values["inputs"], values["checkpoint"], values["output"]]
    return [path for path in paths if "://" not in path and not is_hub_name(path)]


def _settings(ctx: click.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not defaults, by parameter name."""
    return {
        str(parameter.name): parameter.type.text(values[str(parameter.name)])
        if isinstance(parameter.type, Written)
        else values[str(parameter.name)]
        for parameter in FORWARDED
        if ctx.get_parameter_source(str(parameter.name)) is not ParameterSource.DEFAULT
    }


def _submit(
    cluster: Dashboard, words: Sequence[str], output: str, settings: Mapping[str, Any]
) -> str:
    """Submit the job and return its id. The id is derived from the arguments: Ray accepts an id
    only once, so nothing can start the same job twice. Each attempt after an end gets a number."""
    from jobs.package import version, write_package  # noqa: PLC0415

    name = "swath-" + hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]
    jobs = cluster.jobs()
    running = [job for job in jobs if not job.ended]
    for job in running:
        if last_attempt(name, [job.job_id]):
            _note_running(job.job_id)
            return job.job_id
    _note_cluster(cluster, running, output)
    number = last_attempt(name, [job.job_id for job in jobs]) + 1
    entrypoint = "exec " + shlex.join(["python", "-m", "jobs.on_cluster", "run", *words, *THERE])
    with tempfile.TemporaryDirectory() as folder:
        package = write_package(Path(folder))
        while True:
            job_id = name if number == 1 else f"{name}-{number}"
            job = Job(job_id, "PENDING", output, 0, None, None, "", version(), settings)
            if cluster.submit(job, entrypoint, package):
                return job_id
            if not cluster.job(job_id).ended:  # someone else has just submitted it
                _note_running(job_id)
                return job_id
            number += 1


def last_attempt(name: str, ids: Iterable[str]) -> int:
    """The highest number among the attempts at a job, some of which may be deleted; 0: none."""
    matches = (re.fullmatch(rf"{name}(?:-(\d+))?", each) for each in ids)
    return max((int(match[1] or 1) for match in matches if match), default=0)


def _note_running(job_id: str) -> None:
    click.echo(f"note: {job_id} is running this already; nothing was submitted", err=True)


def _note_cluster(cluster: Dashboard, running: Sequence[Job], output: str) -> None:
    for job in running:
        if job.output == output:
            click.echo(f"note: {job.job_id} is also working on {output}", err=True)
    resources = cluster.resources()
    if not resources["GPU"]:
        click.echo(
            f"note: the cluster has no GPU now; the job runs on its {resources['CPU']:.0f} CPUs",
            err=True,
        )

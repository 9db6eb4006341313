"""Submits, lists, follows and stops jobs on a Ray cluster through its dashboard.

Knows Ray's jobs and how a dashboard fails; does not know what a job does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient, JobType
from ray.util.state import list_nodes
from ray.util.state.exception import RayStateApiException

from jobs.cluster_job import Job
from pipeline.errors import LOG, UnfinishedError, UsageError
from pipeline.processes.endpoint import KNOCK_S, check_listening, is_loopback

VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""The variables in which Ray's own commands look for the address, in this order. (There they take
precedence over --address; here --address does.)"""
STOP_S = 90
"""Seconds that a driver has between the signal and being killed; Ray's default is 3. Stopping in
order takes up to 30 s for Ray Data, and some for the store."""
_ANSWER_S, _QUIET_S, _LOOK_S = 60.0, 30.0, 0.5
_NO_AGENT, _AGENT_S, _AGAIN_S = "No available agent", 60.0, 1.0
"""The dashboard's answer while its part that starts jobs is not ready yet, how long that is
retried, and the pause between two tries."""


class Dashboard:
    """The dashboard of a Ray cluster. Raises UsageError if there is none, or it denies access."""

    def __init__(self, address: str | None) -> None:
        self.address = _full_address(address)
        for handler in logging.getLogger("ray").handlers:  # its loggers have their own levels
            handler.setLevel(logging.ERROR)
        # Otherwise Ray would prefer the variables to what its caller says.
        os.environ[VARIABLES[0]] = self.address
        if is_loopback(self.address):  # Ray's client has no switch for proxies
            exempt = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
            hosts = [exempt, urlsplit(self.address).hostname]
            os.environ["no_proxy"] = ",".join(filter(None, hosts))
        # As Ray's head does by itself: an existing token is used.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        with self._asking():
            check_listening(self.address)
            self._client = _Client(self.address)

    def check_version(self) -> None:
        """Raises UsageError if the cluster runs another minor version of Ray."""
        there, here = str(self._client._server_ray_version), str(ray.__version__)
        if there.split(".")[:2] != here.split(".")[:2]:
            raise UsageError(
                f"--address {self.address}: the cluster runs Ray {there}, and Ray {here} is"
                f" installed here; install ray=={there} here, or ray=={here} on the cluster"
            )

    def resources(self) -> dict[str, float]:
        """The CPUs and GPUs of all living nodes together."""
        with self._asking():
            nodes = list_nodes(
                self.address,
                filters=[("state", "=", "ALIVE")],
                limit=10_000,
                timeout=int(_ANSWER_S),
            )
        totals = [node.resources_total or {} for node in nodes]
        return {kind: sum(each.get(kind, 0) for each in totals) for kind in ("CPU", "GPU")}

    def jobs(self) -> list[Job]:
        """The jobs of Swath, in the order of their start."""
        with self._asking():
            listed = self._client.list_jobs()
        jobs = [
            Job.read(
                job_id=one.submission_id,
                status=str(one.status.value),
                started_s=(one.start_time or 0) / 1000,
                ended_s=one.end_time / 1000 if one.end_time else None,
                exit_code=one.driver_exit_code,
                message=" ".join((one.message or "").split()),
                metadata=one.metadata or {},
            )
            for one in listed
            if one.type is JobType.SUBMISSION and Job.is_ours(one.metadata or {})
        ]
        return sorted(jobs, key=lambda job: job.started_s)

    def job(self, job_id: str) -> Job:
        """One job. Raises UsageError if there is no such job of Swath."""
        for job in self.jobs():
            if job.job_id == job_id:
                return job
        raise UsageError(
            f"{job_id}: the cluster at {self.address} has no such job of Swath; `swath jobs`"
            " lists them"
        )

    def submit(self, job: Job, entrypoint: str, package: Path) -> bool:
        """Submit the job; False if a job of this id exists already. The driver runs on the head, in
        the environment of its node, and takes none of the CPUs that the stages share. Submitting to
        a cluster that has just started is retried."""
        deadline, warned = time.monotonic() + _AGENT_S, False
        while True:
            try:
                return self._submit(job, entrypoint, package)
            except UnfinishedError as error:
                if _NO_AGENT not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise UnfinishedError(
                        f"--address {self.address}: the cluster's agents, which start jobs, do not"
                        " come up; Ray's dashboard_agent.log says why (if two clusters share a"
                        " machine, give each `ray start` its own --dashboard-agent-listen-port)"
                    ) from error
            if not warned:
                LOG.warning("the cluster does not accept jobs yet; retrying")
                warned = True
            time.sleep(_AGAIN_S)

    def _submit(self, job: Job, entrypoint: str, package: Path) -> bool:
        try:
            with self._asking():
                self._client.submit_job(
                    submission_id=job.job_id,
                    entrypoint=entrypoint,
                    metadata=job.metadata(),
                    runtime_env={
                        "working_dir": str(package),
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
                    },
                )
        except UnfinishedError as error:
            if f"{job.job_id} already exists" in str(error):
                return False
            raise
        return True

    def log(self, job_id: str) -> str:
        """The output of a job so far."""
        with self._asking():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> None:
        """Pass the job's output to `write` until the job ends, or the stream does."""

        async def copy() -> None:
            stream = self._client.tail_job_logs(job_id)
            upcoming = asyncio.ensure_future(anext(stream))
            while True:
                received, _ = await asyncio.wait({upcoming}, timeout=_QUIET_S)
                if not received:  # a connection may die silently: check that the dashboard answers
                    self.job(job_id)
                    continue
                try:
                    write(upcoming.result())
                except StopAsyncIteration:
                    return
                upcoming = asyncio.ensure_future(anext(stream))

        with self._asking():
            asyncio.run(copy())

    def stop(self, job_id: str) -> Job:
        """Stop a job, and return when its driver has ended, cleanly or by force."""
        with self._asking():
            self._client.stop_job(job_id)
        deadline = time.monotonic() + STOP_S + _ANSWER_S
        while not (job := self.job(job_id)).ended:
            if time.monotonic() > deadline:
                raise UnfinishedError(
                    f"{job_id}: still {job.status} {STOP_S + _ANSWER_S:.0f} s after it was told to"
                    f" stop; `swath logs {job_id}` says what it does"
                )
            time.sleep(_LOOK_S)
        return job

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Translates Ray's errors into ours."""
        where = f"--address {self.address}"
        try:
            yield
        except BrokenPipeError:  # ours: the reader of our output is gone
            raise
        except AuthenticationError as error:
            raise UsageError(
                f"{where}: the dashboard requires its cluster's token"
                f" ({'another one' if 'nvalid' in str(error) else 'none'} was given); set"
                " RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it"
            ) from error
        except (OSError, KeyError, ValueError) as error:  # requests' errors are OSErrors
            raise UsageError(
                f"{where}: no Ray dashboard answers there ({_first_line(error)}); give its URL, as"
                " `ray start --head` prints it, or open a way to it (kubectl port-forward, ssh -L)"
            ) from error
        except (RuntimeError, RayStateApiException) as error:
            raise UnfinishedError(f"{where}: {_last_line(error)}; try again") from error


class _Client(JobSubmissionClient):
    """Ray's client, with a time limit for each request."""

    def _do_request(self, method: str, endpoint: str, **how: Any) -> Any:
        return super()._do_request(method, endpoint, timeout=(KNOCK_S, _ANSWER_S), **how)


def _full_address(address: str | None) -> str:
    """The address, by default that of the variables, without a slash at its end."""
    variables = (os.environ.get(name) for name in VARIABLES)
    address = address or next((value for value in variables if value), None)
    if address is None:
        raise UsageError(
            "--address: which cluster? Give the URL of its Ray dashboard, such as"
            f" http://127.0.0.1:8265, here or as {VARIABLES[0]}"
        )
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise UsageError(
            f"--address {address}: not the URL of a Ray dashboard, such as http://127.0.0.1:8265"
        )
    return address.rstrip("/")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    """The last line of an error: of an answer with a traceback, the exception."""
    return str(error).rstrip(".\n ").splitlines()[-1]

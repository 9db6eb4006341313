"""Faults done to a run: signals to its processes, damage to its requests and to its store.

Knows processes, the proxy's control and the server's daemons; knows nothing of outputs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.promises.kills import MARK, kill_tree, processes
from tests.support.fault_cases import BUCKET, Case
from tests.support.fault_proxy import CONTROL
from tests.support.s3_server import Gateway, Server, client, dying_with_parent

STOP_S, STORM_S, GATEWAY_S = 20, 10, 1
STORM_SHARE, STRAY_SHARE, STRAY_TIMES = 0.3, 0.5, 7
_POLL_S = 0.01
_APPEARS_WITHIN_S = 20
_STDERR_CHARS = 4000
"""Characters kept of what a process printed on stderr."""


class Trouble(Exception):
    """An event that should not happen in a case."""


class StoreBroken(Exception):
    """The store has not recovered from a fault, which says nothing about the case."""


class Proxy:
    """A fault proxy in a separate process, and its control."""

    def __init__(self, upstream: str) -> None:
        """upstream: the URL of a server on this machine."""
        self._process = subprocess.Popen(
            [
                *dying_with_parent(),
                sys.executable,
                "-m",
                "tests.support.fault_proxy",
                "0",
                upstream.rpartition(":")[2],
            ],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the campaign
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def add(self, match: str, kind: str, **fields: Any) -> None:
        """Add a `fault_proxy.Rule`."""
        self._call("POST", "", {"match": match, "kind": kind, **fields})

    def release(self, *, forward: bool = True) -> None:
        """Forward the held requests, or reset them."""
        self._call("POST", "/release", {"forward": forward})

    def state(self) -> dict[str, Any]:
        """The rules, the held requests and the number of active ones: see `fault_proxy`."""
        return self._call("GET", "")

    def log(self) -> list[dict[str, Any]]:
        """A `fault_proxy.Exchange` for each request since the last `clear`."""
        return list(self._call("GET", "/log")["log"])

    def clear_rules(self) -> None:
        """Remove all rules; held requests are forwarded."""
        self._call("DELETE", "/rules")

    def clear(self) -> None:
        """Remove all rules and empty the log; held requests are forwarded."""
        self._call("DELETE", "")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{CONTROL}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return dict(json.load(answer))


class Run:
    """A `swath run` under observation; every process it starts carries its mark."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, limit_s: float
    ) -> None:
        self.mark = uuid.uuid4().hex
        self._log = log
        self._deadline = time.monotonic() + limit_s
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "jobs.cli", "run", *arguments],
                env={**os.environ, **environment, MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )

    def wait(self, until: Callable[[], object] = lambda: False, within_s: float = 1e9) -> bool:
        """Wait until the run has ended, the condition holds or the time is over.

        Returns whether the run has ended. Raises Trouble if the run exceeds its time limit, with
        the stacks of its threads.
        """
        end = time.monotonic() + within_s
        while self.process.poll() is None and time.monotonic() < end and not until():
            if time.monotonic() > self._deadline:
                raise Trouble(f"hangs: {self._doing()}")
            time.sleep(_POLL_S)
        return self.process.poll() is not None

    def stderr_end(self) -> str:
        """The last characters that it printed on stderr."""
        text = self._log.read_text(errors="replace")
        return text.partition("\nExtension modules: ")[0][
            -_STDERR_CHARS:
        ].strip()  # faulthandler's last

    def end(self) -> None:
        """Kill whatever is left of it."""
        kill_tree(self.mark)
        self.process.wait()

    def worker(self, title: str) -> int:
        """The id of a process of Ray with this title. Raises Trouble if none appears in time."""
        deadline = time.monotonic() + _APPEARS_WITHIN_S
        while time.monotonic() < deadline:
            for pid in processes(self.mark):
                if _title(pid).startswith(title):
                    return pid
            time.sleep(_POLL_S)
        raise Trouble(f"no process {title!r} among {self._titles()}")

    def _titles(self) -> list[str]:
        return sorted(_title(pid)[:80] for pid in processes(self.mark))

    def _doing(self) -> str:
        titles = self._titles()
        self.process.send_signal(signal.SIGABRT)  # faulthandler prints the stack of each thread
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        return f"{titles} {self.stderr_end()}"


def reach(case: Case, run: Run, proxy: Proxy, out: str) -> str:
    """Wait until the phase's request is held, and return its line. Raises Trouble if none comes."""
    *earlier, last = case.requests(out)
    for match in earlier:
        _hold(run, proxy, match, skip=0)
    return _hold(run, proxy, last, case.skip)


def _hold(run: Run, proxy: Proxy, match: str, skip: int) -> str:
    """Hold a request that matches, releasing what is held only once the rule is in place."""
    proxy.add(match, "hold", skip=skip)
    proxy.release()
    if run.wait(lambda: proxy.state()["held"]):
        code = run.process.returncode
        raise Trouble(f"ended with {code} before {match} came {skip + 1} times: {run.stderr_end()}")
    return str(proxy.state()["held"][0])


def strike(case: Case, run: Run, server: Server, proxy: Proxy) -> None:
    """Inflict the fault of the case while the phase's request is held, then release that."""
    match case.fault:
        case "driver":
            run.process.kill()
            run.process.wait()
        case "tree":
            kill_tree(run.mark)
        case "replica":
            os.kill(run.worker("ray::MapWorker(MapBatches(SegmentStage))"), signal.SIGKILL)
        case "reader":
            os.kill(run.worker("ray::FlatMap(ReadStage)"), signal.SIGKILL)
        case "publisher":
            os.kill(run.worker("ray::publish_shard"), signal.SIGKILL)
        case "storm":
            proxy.add(".", "503")  # the held request
            proxy.add(".", "503", times=None, probability=STORM_SHARE)
            proxy.release()
            run.wait(within_s=STORM_S)
            proxy.clear_rules()
        case "cut" | "reset":
            cut = {"after_bytes": case.after_bytes}
            proxy.add(".", case.fault, **cut)
            proxy.add(".", case.fault, times=STRAY_TIMES, probability=STRAY_SHARE, **cut)
        case "stop" | "gateway":
            assert isinstance(server, Gateway), f"{case.fault}: needs Ceph's gateway"
            _disturb_store(case.fault, server, proxy)
            _check_recovered(case.fault)
    proxy.release(forward=case.forward)


def _disturb_store(fault: str, server: Gateway, proxy: Proxy) -> None:
    if fault == "stop":
        server.send("osd.0", signal.SIGSTOP)
        try:
            proxy.release()
            time.sleep(STOP_S)
        finally:
            server.send("osd.0", signal.SIGCONT)
    else:
        server.end("client.rgw", kill=True)
        try:
            proxy.release()
            time.sleep(GATEWAY_S)
        finally:
            server.start_gateway()


def _check_recovered(fault: str) -> None:
    try:
        client(read_timeout=10).ls(BUCKET)  # s3fs tries five times
    except Exception as error:
        raise StoreBroken(f"{fault}: the store does not recover ({error!r})") from error


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""

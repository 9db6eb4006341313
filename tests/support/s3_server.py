"""A real S3 server on loopback for tests: Ceph's gateway, with one mon and one osd in memory.

If Ceph is not installed, moto's server replaces it, which accepts any credentials. Both are child
processes that die with this process, whatever ends it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "radosgw-admin", "ceph")
REGION = "us-east-1"
_STARTS_WITHIN_S, _ENDS_WITHIN_S = 60, 5
_PREFIX = "swath-rgw-"

_CONFIG = """\
[global]
fsid = {fsid}
run dir = {root}/run
admin socket = {root}/run/$name.asok
log file = {root}/log/$name.log
crash dir = {root}/log
keyring = {root}/keyring
mon host = {mon}
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
ms bind port min = {low}
ms bind port max = {high}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw rados pool pg num min = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
mon data avail crit = 1
mon data avail warn = 2
paxos propose interval = 0.05
paxos min wait = 0.01
osd memory target = 939524096
auth allow insecure global id reclaim = false
# Times 20 s: else an osd that was stopped for longer than 16 s may take minutes to read again.
osd pool default read lease ratio = 50
[mon.a]
mon data = {root}/mon
[osd.0]
osd data = {root}/osd
osd objectstore = memstore
memstore device bytes = 8589934592
[client.rgw]
rgw data = {root}
# Without nodelay every second answer waits 40 ms for the client's acknowledgment.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw scheduler type = throttler
rgw thread pool size = 64
rgw run sync thread = false
rgw gc obj min wait = 0
rgw gc processor period = 5
rgw override bucket index max shards = 1
rgw dynamic resharding = false
"""
_CAPABILITIES = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *"],
    "client.rgw": ["mon", "allow rwx", "osd", "allow rwx"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *"],
}


@dataclass(frozen=True)
class Credentials:
    """The keys of a user of the server."""

    key: str
    secret: str

    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}


class Server:
    """An S3 server, and the credentials of a user who may do everything."""

    name = ""
    checks_credentials = False

    def __init__(self) -> None:
        self.url = ""
        self.credentials = Credentials("SWATHTESTKEY00000001", "tests-own-secret-" + "0" * 23)

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def make_bucket(self, name: str) -> None:
        client().mkdir(name)

    def set_policy(self, bucket: str, policy: str | None) -> None:
        """Set a bucket's policy (see `policy`); None: only the owner has access."""
        if policy is None:
            client().call_s3("delete_bucket_policy", Bucket=bucket)
        else:
            client().call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)

    def environment(self) -> dict[str, str]:
        """The standard environment variables that lead a client to the server."""
        return {
            **self.credentials.environment(),
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
        }


class Gateway(Server):
    """Ceph's RADOS gateway. Call start and stop from the main thread: the daemons live as long
    as the thread that started them."""

    name = "radosgw"
    checks_credentials = True

    def __init__(self) -> None:
        super().__init__()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._port = 0
        self.root = Path()

    def start(self) -> None:
        # Not pytest's tmp_path: the path of a unix socket has 107 characters at most.
        _sweep()
        self.root = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-", dir="/tmp"))
        try:
            self._start_cluster()
            self.add_user("tests", self.credentials)
            self.start_gateway()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for daemon in ("client.rgw", "osd.0", "mon.a"):  # else the osd waits 5 s for a dead mon
            if daemon in self._daemons:
                self.end(daemon)
        shutil.rmtree(self.root, ignore_errors=True)

    def start_gateway(self) -> None:
        """Start the gateway, also after `end("client.rgw")`: its objects are still there."""
        self._daemon("client.rgw", "radosgw", "-n", "client.rgw")
        try:
            _wait_for(self.url, self._daemons["client.rgw"])
        except RuntimeError as error:
            raise RuntimeError(f"{error}: {self._last_words()}") from error

    def send(self, daemon: str, number: int) -> None:
        """Send a signal to a daemon: SIGSTOP to osd.0 hangs every request until SIGCONT."""
        self._daemons[daemon].send_signal(number)

    def end(self, daemon: str, *, kill: bool = False) -> None:
        """End mon.a, osd.0 or client.rgw; kill=True cuts its connections."""
        process = self._daemons.pop(daemon)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def set_option(self, name: str, value: object) -> None:
        """Set an option of the running gateway, without a restart.

        rgw_max_concurrent_requests 2 makes it answer most requests with 503 SlowDown.
        """
        self._call("ceph", "daemon", self._admin_socket, "config", "set", name, str(value))

    def requests(self, agent: str) -> int:
        """The number of requests that clients with this user agent have made."""
        self._call("ceph", "daemon", self._admin_socket, "log", "flush")
        lines = (self.root / "log" / "client.rgw.log").read_text(errors="replace").splitlines()
        return sum("beast:" in line and agent in line for line in lines)

    def add_user(self, name: str, credentials: Credentials) -> None:
        keys = [f"--access-key={credentials.key}", f"--secret-key={credentials.secret}"]
        names = [f"--uid={name}", f"--display-name={name}"]
        self._call("radosgw-admin", "-n", "client.rgw", "user", "create", *names, *keys)

    def _start_cluster(self) -> None:
        for folder in ("mon", "osd", "run", "log"):
            (self.root / folder).mkdir()
        # Below the ephemeral ports, above those that Ray assigns to its workers.
        first = _free_ports(64)
        self._port, mon = first, first + 1
        self.url = f"http://127.0.0.1:{self._port}"
        address = f"[v2:127.0.0.1:{mon}/0,v1:127.0.0.1:{mon + 1}/0]"
        fsid, osd = _uuid(), _uuid()
        self._config.write_text(
            _CONFIG.format(
                fsid=fsid,
                root=self.root,
                mon=address,
                low=first + 3,
                high=first + 63,
                port=self._port,
            )
        )
        keyring, monmap = str(self.root / "keyring"), str(self.root / "monmap")
        for index, (name, caps) in enumerate(_CAPABILITIES.items()):
            create = [] if index else ["--create-keyring"]
            pairs = zip(caps[::2], caps[1::2], strict=True)
            granted = [word for pair in pairs for word in ("--cap", *pair)]
            self._call("ceph-authtool", *create, keyring, "--gen-key", "-n", name, *granted)
        self._call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
        self._call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._daemon("mon.a", "ceph-mon", "-i", "a")
        self._call("ceph", "osd", "new", osd, "0")
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("osd.0", "ceph-osd", "-i", "0")

    @property
    def _admin_socket(self) -> str:
        return str(self.root / "run" / "client.rgw.asok")

    @property
    def _config(self) -> Path:
        return self.root / "ceph.conf"

    def _call(self, *command: str) -> None:
        done = subprocess.run(
            command,
            env={**os.environ, "CEPH_CONF": str(self._config)},
            capture_output=True,
            text=True,
            check=False,
            timeout=_STARTS_WITHIN_S,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:3])}: {done.stderr.strip()[-500:]}")

    def _daemon(self, name: str, *command: str) -> None:
        with (self.root / "log" / f"{name}.err").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [*dying_with_parent(), *command, "-f"],
                env={**os.environ, "CEPH_CONF": str(self._config)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which ends it in order
            )

    def _last_words(self) -> str:
        logs = sorted((self.root / "log").iterdir())
        return " | ".join(log.read_text(errors="replace")[-300:] for log in logs)


class Moto(Server):
    """moto's server: faithful, but it accepts any credentials.

    It is a separate process: GDAL keeps Python's lock during some of its requests, so that a server
    in this process could not answer them.
    """

    name = "moto"

    def start(self) -> None:
        port = str(_free_ports(3))
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                *dying_with_parent(),
                sys.executable,
                "-m",
                "moto.server",
                "-H",
                "127.0.0.1",
                "-p",
                port,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _wait_for(self.url, self._process)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def client(**config: Any) -> Any:
    """An s3fs file system configured by this process's variables; config: options of botocore."""
    import s3fs  # type: ignore[import-untyped]  # noqa: PLC0415

    return s3fs.S3FileSystem(use_listings_cache=False, config_kwargs=config)


@contextmanager
def running() -> Iterator[Server]:
    """A running server, with the variables that lead to it set in os.environ."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        raise RuntimeError(f"CI needs {', '.join(missing)}: .ci/run installs them as root")
    server: Server = Moto() if missing else Gateway()
    server.start()
    variables = {**server.environment(), "AWS_SESSION_TOKEN": None, "AWS_PROFILE": None}
    before = {name: os.environ.get(name) for name in variables}
    try:
        _set(variables)
        yield server
    finally:
        _set(before)
        server.stop()


def policy(bucket: str, principal: object, *actions: str) -> str:
    """A policy that allows `actions` on a bucket to a principal; "*" is everybody."""
    names = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    statement = {"Effect": "Allow", "Principal": principal, "Action": actions, "Resource": names}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while not _answers(url):
        if time.monotonic() > deadline or process.poll() is not None:
            raise RuntimeError(f"no S3 server answers at {url}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False


def dying_with_parent() -> list[str]:
    """A prefix for commands that makes them die with this process; empty if there is no setpriv."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []


def _prefix() -> str:
    """The prefix of folders of our process namespace; processes of others cannot be looked up."""
    return f"{_PREFIX}{Path('/proc/self/ns/pid').stat().st_ino}-"


def _sweep() -> None:
    """Delete the folders of processes that were killed; their daemons died with them."""
    for folder in Path("/tmp").glob(f"{_prefix()}*"):
        pid = folder.name.removeprefix(_prefix()).partition("-")[0]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row, of which the first three are free."""
    while True:
        first = random.SystemRandom().randrange(21_000, 32_000 - count)
        try:
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


def _uuid() -> str:
    return Path("/proc/sys/kernel/random/uuid").read_text().strip()

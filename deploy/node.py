"""The Ray node on this machine: finding it by its raylet, and draining it. Linux only.

Imports no Ray: a watcher runs beside the node for days and should take no memory from it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segformer.errors import SwathError

DRAIN_TIMEOUT_S = 20.0
"""The time limit of one `ray drain-node`, which starts a Python that imports Ray."""
_RETRY_S = 1.0


class NodeError(SwathError):
    """There is no node on this machine, or it cannot be drained."""


@dataclass(frozen=True)
class Node:
    """A Ray node on this machine."""

    node_id: str
    gcs_address: str
    pid: int
    """The process id of its raylet."""

    @classmethod
    def here(cls, node_id: str | None = None) -> Node:
        """The node of this machine or container. Raises NodeError if there is none, or several."""
        nodes = [node for node in _nodes() if node_id in (None, node.node_id)]
        if len(nodes) == 1:
            return nodes[0]
        if nodes:
            raise NodeError(f"{len(nodes)} Ray nodes run here; name one with --node-id")
        which = f"no Ray node {node_id} runs" if node_id else "no Ray node runs"
        raise NodeError(f"{which} on this machine; start it with `ray start` first")

    def drain(self, why: str, left_s: float | None) -> None:
        """Make Ray give this node no more work, and not count its end as a failure.

        Retried as long as there is time. Raises NodeError if the node cannot be drained.
        """
        ends = time.monotonic() + (DRAIN_TIMEOUT_S if left_s is None else left_s)
        while error := self._drain_once(why, ends if left_s is not None else None):
            if time.monotonic() + _RETRY_S > ends:
                raise NodeError(f"node {self.node_id} cannot be drained: {error}")
            time.sleep(_RETRY_S)

    def wait_for_end(self, seconds: float) -> bool:
        """Whether the node stops within `seconds`: a drained node does once it has no more work."""
        ends = time.monotonic() + seconds
        while self in _nodes():
            if time.monotonic() > ends:
                return False
            time.sleep(0.2)
        return True

    def _drain_once(self, why: str, ends: float | None) -> str:
        """Drain once. Returns the error, or an empty string."""
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "drain-node", "--address", self.gcs_address, "--node-id", self.node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", why]
        if ends is not None:
            left_s = max(0, int(ends - time.monotonic()))
            command += ["--deadline-remaining-seconds", str(left_s)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=DRAIN_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode:
            return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return ""


def _nodes() -> Iterator[Node]:
    """The nodes whose raylets run here, by the command lines in /proc."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has just exited, or belongs to another user
            continue
        if Path(words[0]).name == "raylet":
            flags = dict(word.split("=", 1) for word in words[1:] if "=" in word)
            if "--node_id" in flags:
                yield Node(flags["--node_id"], flags["--gcs-address"], int(folder.name))

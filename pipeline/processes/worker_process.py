"""A worker process, as the process that starts it sees it: messages to it and from it, and its end.

It is started by subprocess, not by multiprocessing: that would import the user's script in every
worker, and require a `__main__` guard in it. `pipeline.processes.worker` is its other end.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from typing import Any, Literal, TypeVar

from pipeline.errors import LOG
from pipeline.processes.worker import Logged, Raised, Rearmed, Returned

R = TypeVar("R")

START_S = 300.0
"""Time limit for the start of a worker: its imports may come over a slow network."""
EXIT_S = 5.0
"""How long to wait for the exit of a process that has closed its connection."""
ADDRESS_SPACE_BYTES = 1 << 50
"""A memory limit that is in effect none: CUDA reserves address space freely, and the plan has
checked how much memory is used."""
_CHILD = (
    "import sys; sys.path[:] = sys.argv[2:];"
    " from pipeline.processes.worker import serve; serve(int(sys.argv[1]))"
)


@dataclass(frozen=True)
class Died:
    """The item ended its process although it was alone in it."""

    reason: Literal["crashed", "timeout", "memory"]
    how: str
    """For messages, as `its process was killed by SIGSEGV`."""


Outcome = Returned[R] | Raised | Died


class WorkerProcess:
    """A process that works on items with a function, as many at once as it has threads."""

    def __init__(self, function: bytes, threads: int, memory_bytes: int) -> None:
        """function: pickled; memory_bytes: what the process may allocate beyond what it has after
        its imports."""
        self.ready = False
        """Whether its imports are done."""
        self.start_due = time.monotonic() + START_S
        """When it has to be ready, by time.monotonic."""
        self.connection, child_end = Pipe()
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, str(child_end.fileno()), *sys.path],
                pass_fds=(child_end.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C goes to the parent, which ends its workers
            )
        self._send((function, threads, memory_bytes))

    def send(self, index: int, item: Any) -> None:
        """Send an item. It waits in the pipe until a thread is idle."""
        self._send((index, item))

    def receive(self) -> tuple[int, Returned[Any] | Raised | Rearmed] | None:
        """The next message about an item; None if there was another one, which is dealt with.

        Raises EOFError if the process is dying or dead.
        """
        try:
            message = self.connection.recv()
        except Exception as error:  # the last bytes of a dying process may be anything
            raise EOFError from error
        if message is None:
            self.ready = True
            return None
        if isinstance(message, Logged):
            LOG.handle(message.record)
            return None
        index, outcome = message
        return index, outcome

    def end(self, wait_s: float = 0.0) -> str:
        """Wait up to `wait_s` for the process to exit, then kill it; returns how it ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(wait_s)
        self._process.kill()
        code = self._process.wait()
        self.connection.close()
        if code >= 0:
            return f"its process ended with exit code {code}"
        name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
        why = ", as happens when memory runs out" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{why}"

    def _send(self, message: object) -> None:
        with suppress(OSError):  # it has exited: `receive` will notice
            self.connection.send(message)

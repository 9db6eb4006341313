"""Runs a function over items in worker processes that may crash, hang or run out of memory.

A damaged file can crash a C library, and with it the process. Here that is a worker: the items it
was working on are retried, each alone in a new process, and an item that ends this one, too, has
`Died`. Knows nothing of files and rasters, and does not judge: the caller decides what an outcome
means.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, TypeVar

from pipeline.errors import UnfinishedError
from pipeline.processes.worker import Raised, Rearmed, Returned
from pipeline.processes.worker_process import EXIT_S, Died, Outcome, WorkerProcess

__all__ = ["Died", "Limits", "Outcome", "Raised", "Returned", "run_in_sandbox"]

T = TypeVar("T")
R = TypeVar("R")

_ITEMS_PER_PROCESS = 64
"""Items that justify one more process, whose start takes half a second."""


@dataclass(frozen=True)
class Limits:
    """Limits on the workers."""

    processes: int
    """The largest number of processes; a small job has one."""
    threads: int
    """Items that each process works on at once."""
    item_s: float
    """Seconds for one item, or between two calls of `limits.rearm` during it."""
    memory_bytes: int
    """What a process may allocate beyond what it has after its imports. Linux only."""


def run_in_sandbox(
    function: Callable[[T], R], items: Sequence[T], limits: Limits
) -> Generator[tuple[int, Outcome[R]], None, None]:
    """The index and the outcome of each item, once, in the order in which they finish.

    The function must be importable by its name, or a functools.partial of such a function;
    arguments and results must pickle into some kilobytes. A caller that may stop before the end
    closes the iterator (contextlib.closing), which ends the workers; on Linux they also end with
    the thread that iterates. Raises UnfinishedError if no worker can be started.
    """
    pool = _Pool(pickle.dumps(function), items, limits)
    try:
        while pool.assign():
            yield from pool.collect()
    finally:
        pool.close()


class _Worker:
    """A process and the items it is working on."""

    def __init__(self, function: bytes, queue: deque[int], limits: Limits, alone: bool) -> None:
        self.queue = queue
        """The indices of the items that it takes from."""
        self.alone = alone
        """Whether it works on one item only, which was in a process that died."""
        self.running: dict[int, float] = {}
        """Index of an item -> when its time is up."""
        self._threads = 1 if alone else limits.threads
        self._item_s = limits.item_s
        self.process = WorkerProcess(function, self._threads, limits.memory_bytes)

    def feed(self, items: Sequence[Any]) -> None:
        """Send an item to each idle thread. No more: an item that only waits must not share
        another's fate."""
        while self.process.ready and self.queue and len(self.running) < self._threads:
            index = self.queue.popleft()
            self.rearm(index)
            self.process.send(index, items[index])

    def rearm(self, index: int, at_least_s: float = 0.0) -> None:
        """Start the item's time, or start it again."""
        self.running[index] = time.monotonic() + max(self._item_s, at_least_s)

    @property
    def idle(self) -> bool:
        """Whether it is ready and has no item."""
        return self.process.ready and not self.running

    @property
    def due(self) -> float:
        """When its next message is due at the latest, by time.monotonic."""
        return min(self.running.values()) if self.process.ready else self.process.start_due


class _Pool:
    """The workers, and the items that no worker has."""

    def __init__(self, function: bytes, items: Sequence[Any], limits: Limits) -> None:
        self._function = function
        self._items = items
        self._limits = limits
        self._pending = deque(range(len(items)))
        self._suspects: deque[int] = deque()
        """Items whose process died while it worked on them: each is retried alone."""
        self._workers: list[_Worker] = []

    def assign(self) -> bool:
        """Feed the workers, end the idle ones, and start those that are needed. Returns whether
        any worker is left, i.e. False once all is done."""
        for worker in self._workers[:]:
            worker.feed(self._items)
            if worker.idle:
                self._end(worker)
        wanted = -(-len(self._pending) // _ITEMS_PER_PROCESS)
        wanted -= sum(not worker.alone for worker in self._workers)
        while len(self._workers) < self._limits.processes:
            if self._suspects:
                self._start(deque([self._suspects.popleft()]), alone=True)
            elif wanted > 0:
                self._start(self._pending, alone=False)
                wanted -= 1
            else:
                break
        return bool(self._workers)

    def collect(self) -> Iterator[tuple[int, Outcome[Any]]]:
        """Wait for a message from a worker, or until one is overdue; yields the outcomes."""
        due = min(worker.due for worker in self._workers)
        heard = wait(
            [worker.process.connection for worker in self._workers],
            max(0.0, due - time.monotonic()),
        )
        for worker in self._workers[:]:
            if worker.process.connection in heard:
                yield from self._hear(worker)
            elif worker.due <= time.monotonic():
                self._end(worker)
                how = f"it took more than {self._limits.item_s:,.0f} s"
                yield from self._died(worker, Died("timeout", how))

    def close(self) -> None:
        for worker in self._workers[:]:
            self._end(worker)

    def _hear(self, worker: _Worker) -> Iterator[tuple[int, Outcome[Any]]]:
        try:
            message = worker.process.receive()
        except EOFError:
            yield from self._died(worker, Died("crashed", self._end(worker, EXIT_S)))
            return
        if message is None:
            return
        index, outcome = message
        if isinstance(outcome, Rearmed):
            worker.rearm(index, outcome.at_least_s)
            return
        del worker.running[index]
        if not (isinstance(outcome, Raised) and isinstance(outcome.error, MemoryError)):
            yield index, outcome
        elif worker.alone:
            how = f"it asked for more than {self._limits.memory_bytes / 1e9:.1f} GB of memory"
            yield index, Died("memory", how)
        else:  # another item in the process may have taken the memory
            self._suspects.append(index)

    def _died(self, worker: _Worker, died: Died) -> Iterator[tuple[int, Outcome[Any]]]:
        if not worker.process.ready:
            raise UnfinishedError(f"a worker process could not start: {died.how}")
        if worker.alone:
            yield from ((index, died) for index in worker.running)
        else:
            self._suspects.extend(worker.running)

    def _start(self, queue: deque[int], alone: bool) -> None:
        self._workers.append(_Worker(self._function, queue, self._limits, alone))

    def _end(self, worker: _Worker, wait_s: float = 0.0) -> str:
        self._workers.remove(worker)
        return worker.process.end(wait_s)

"""Complete shards, published by Ray tasks while the flow continues, several at the same time.

Knows where such a task runs, how often it is retried, and how it is stopped. That it can be retried
at all, from any point, is `pipeline.output.publishing`'s doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster.ray_errors import root_cause, swath_error_in
from pipeline.errors import LOG, UnfinishedError
from pipeline.output.publishing import delete_leftovers
from pipeline.output.shard import Shard
from pipeline.stages import ShardResult, Work

ATTEMPTS = 3
"""Attempts at a shard whose process or node is lost each time. We retry, not Ray: what the dead
process left has to be deleted first."""
CPUS = 0.01
"""CPUs requested by a task. Next to none, so that no task waits behind a replica; but not zero, so
that none is put on a node without CPUs: that may be a head on which nobody has looked for the job's
paths. Its memory is requested in full."""
CANCEL_S = 10.0
"""Time for a canceled task to delete what it was writing; then its process is killed."""

Publish = Callable[[Work, Shard], ShardResult]
"""What a task does."""


def publish_shard(work: Work, shard: Shard) -> ShardResult:
    """Publish a shard. Lists of processes show the task under this name."""
    return work.publish(shard)


class Publishers:
    """The tasks of one run. Shards may be handed over at any time; tasks run inside `at_work`."""

    def __init__(self, work: Work, publish: Publish) -> None:
        self._work = work
        self._max_running = work.budget.publishers
        self._waiting: dict[str, Shard] = {}
        self._running: dict[Any, Shard] = {}
        """Shards by the reference to their task's result."""
        self._losses: Counter[str] = Counter()
        self._at_work = False
        self._task = ray.remote(
            num_cpus=CPUS,
            memory=work.need.publisher_bytes,
            max_retries=0,
            max_calls=1,  # a large shard's records must not stay in a process that reads next
            scheduling_strategy="SPREAD",
        )(publish)

    @property
    def left(self) -> int:
        """The number of shards that are not known to be published."""
        return len(self._waiting) + len(self._running)

    def start(self, shard: Shard) -> None:
        self._waiting[shard.shard_id] = shard

    def advance(self) -> list[ShardResult]:
        """Return the results of the tasks that ended since the last call, then start what may
        start.

        Raises UnfinishedError if a shard cannot be published, and UsageError, as publishing does.
        """
        results = []
        for ref in self._wait_for(len(self._running), timeout_s=0.0):
            shard = self._running.pop(ref)
            result = self._result(ref, shard)
            if result:
                results.append(result)
            else:
                self._waiting[shard.shard_id] = shard
        if self._at_work:
            self._start_tasks()
        return results

    def wait(self, timeout_s: float) -> None:
        """Wait until a task has ended, at most this long."""
        self._wait_for(1, timeout_s)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Start tasks inside the block: there is a cluster. Tasks that still run at its end, after
        an error or by hand, are canceled."""
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False
            with suppress(RayError):  # the cluster may be gone
                for ref in self._running:
                    ray.cancel(ref)
                self._wait_for(len(self._running), CANCEL_S)

    def _start_tasks(self) -> None:
        for shard in list(self._waiting.values()):
            if len(self._running) == self._max_running:
                break
            # Two that take old rows out of one table would undo each other's work.
            if shard.retries and any(other.retries for other in self._running.values()):
                continue
            del self._waiting[shard.shard_id]
            self._running[self._task.remote(self._work, shard)] = shard

    def _wait_for(self, count: int, timeout_s: float) -> list[Any]:
        """The references of running tasks that have ended, once there are `count` of them or the
        time is up."""
        if not self._running:
            return []
        ended, _ = ray.wait(list(self._running), num_returns=count, timeout=timeout_s)
        return list(ended)

    def _result(self, ref: Any, shard: Shard) -> ShardResult | None:
        """The result of an ended task; None if its process or node was lost. Raises as
        `advance`."""
        where = f"{self._work.output}: shard {shard.shard_id}"
        try:
            result: ShardResult = ray.get(ref)
        except RayTaskError as error:
            swath_error = swath_error_in(error)
            if swath_error is not None:
                raise swath_error from error
            raise UnfinishedError(
                f"{where} cannot be published ({root_cause(error)}); what is done is kept, the same"
                " command resumes the run"
            ) from error
        except RayError as error:
            self._losses[shard.shard_id] += 1
            if self._losses[shard.shard_id] == ATTEMPTS:
                raise UnfinishedError(
                    f"{where} cannot be published: its process was lost {ATTEMPTS} times"
                    f" ({root_cause(error)}); check the memory of the Ray nodes. What is done is"
                    " kept, the same command resumes the run"
                ) from error
            LOG.warning("%s was lost while it was being published; retrying it", where)
            delete_leftovers(self._work.out, shard)
            return None
        return result

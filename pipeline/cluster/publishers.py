"""Complete shards, published by tasks of Ray's while the flow goes on, several at once.

Knows where such a task runs, how often it is repeated, and how it is ended. That it can be repeated
at all, from any point, is `pipeline.output.publishing`'s doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.cluster.ray_errors import ours_in, root_of
from pipeline.errors import LOG, UnfinishedError
from pipeline.output.publishing import sweep
from pipeline.output.shard import Shard
from pipeline.stages import PublishedShard, Work

TRIES = 3
"""Of a shard whose process or node is lost. By us: what the dead have left is deleted before."""
CPUS = 0.01
"""Of a task. None of them waits behind a replica, and yet none is put on a node without CPUs: that
may be a head on which nobody has looked for the job's paths. Its memory is asked for in full."""
CANCEL_S = 10.0
"""In which a task that is stopped deletes what it was writing; then its process is ended."""


class Publishers:
    """Of one run. Shards may be handed over at any time; tasks run within `at_work`."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._most = work.budget.publishers
        self._waiting: dict[str, Shard] = {}
        self._running: dict[Any, Shard] = {}
        """By the reference to what the task returns."""
        self._lost: Counter[str] = Counter()
        self._at_work = False
        self._task = ray.remote(
            num_cpus=CPUS,
            memory=work.need.publisher_bytes,
            max_retries=0,
            max_calls=1,  # a large shard's records are not to stay in a process that reads next
            scheduling_strategy="SPREAD",
        )(publish_shard)

    @property
    def left(self) -> int:
        """Shards that are not known to be published."""
        return len(self._waiting) + len(self._running)

    def start(self, shard: Shard) -> None:
        self._waiting[shard.shard_id] = shard

    def advance(self) -> list[PublishedShard]:
        """What was published since the last time; then begins what may begin.

        Raises UnfinishedError where one cannot be published, and UsageError, as publishing does.
        """
        found = []
        for ref in self._ended(timeout_s=0.0, most=len(self._running)):
            shard = self._running.pop(ref)
            published = self._result(ref, shard)
            if published:
                found.append(published)
            else:
                self._waiting[shard.shard_id] = shard
        if self._at_work:
            self._begin()
        return found

    def wait(self, timeout_s: float) -> None:
        """Until a task has ended, or so long."""
        self._ended(timeout_s, most=1)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it there is a cluster. What still runs at its end is stopped: after an error, or
        by hand."""
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False
            with suppress(RayError):  # of a cluster that is gone
                for ref in self._running:
                    ray.cancel(ref)
                self._ended(CANCEL_S, most=len(self._running))

    def _begin(self) -> None:
        for shard in list(self._waiting.values()):
            if len(self._running) == self._most:
                break
            # Two that take old rows out of one table would undo each other's work.
            if shard.retries and any(other.retries for other in self._running.values()):
                continue
            del self._waiting[shard.shard_id]
            self._running[self._task.remote(self._work, shard)] = shard

    def _ended(self, timeout_s: float, most: int) -> list[Any]:
        """Those of the running that have ended, as soon as they are so many or the time is over."""
        if not self._running:
            return []
        ended, _ = ray.wait(list(self._running), num_returns=most, timeout=timeout_s)
        return list(ended)

    def _result(self, ref: Any, shard: Shard) -> PublishedShard | None:
        """None where its process or node was lost. Raises as `advance`."""
        where = f"{self._work.output}: shard {shard.shard_id}"
        try:
            published: PublishedShard = ray.get(ref)
        except RayTaskError as error:
            ours = ours_in(error)
            if ours is not None:
                raise ours from error
            raise UnfinishedError(
                f"{where} cannot be published ({root_of(error)}); what is done is kept, the same"
                " command resumes the run"
            ) from error
        except RayError as error:
            self._lost[shard.shard_id] += 1
            if self._lost[shard.shard_id] == TRIES:
                raise UnfinishedError(
                    f"{where} cannot be published: the process that did it was lost {TRIES} times"
                    f" ({root_of(error)}); have Ray's nodes memory left? What is done is kept, the"
                    " same command resumes the run"
                ) from error
            LOG.warning("%s was lost while it was published; once more", where)
            sweep(self._work.out, shard)
            return None
        return published


def publish_shard(work: Work, shard: Shard) -> PublishedShard:
    """What the task is called in lists of processes."""
    return work.publish(shard)

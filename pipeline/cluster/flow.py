"""The flow of a run on Ray: rounds until every unit has an outcome, and publishing beside them.

A round computes what has no outcome. What is lost with a process or a node gets none and is left
to the next round; what has none after the last round is computed in isolation. Which units have an
outcome is not for this room to know: it asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.cluster.callbacks import PoolMeter
from pipeline.cluster.isolation import segment_in_isolation
from pipeline.cluster.publishers import Publishers
from pipeline.cluster.ray_errors import STALLED_UNITS
from pipeline.cluster.round import POLL_S, Poll, Round
from pipeline.cluster.session import connected
from pipeline.cluster.shared_paths import check_shared_paths
from pipeline.cluster.stages import Stages
from pipeline.errors import LOG, TransientError
from pipeline.stages import Work
from pipeline.unit import Unit

ROUNDS = 2
PASSES = 4
"""Passes of rounds and publishing: units may be open again after their shard was to be published,
because their files turned out to be damaged."""
NOTE_S = 30.0
"""Time between two notes on what the end of a run waits for."""


@dataclass(frozen=True)
class Flow:
    """The flow of one run, on the Ray cluster at the address or on one of its own."""

    work: Work
    publishers: Publishers
    address: str | None
    meter: PoolMeter
    stages: Stages

    def run_units(self, open_units: Callable[[], list[Unit]], poll: Poll) -> int:
        """Compute the units without an outcome and publish; call `poll` about once a second.

        Returns the number of retries while units' files were written. Units may be left open.
        Raises UnfinishedError if the rest would fail, too; TransientError if a store does not
        answer.
        """
        work, budget, publishers = self.work, self.work.budget, self.publishers
        if work.out_of_time and not publishers.left:
            return 0
        memory_bytes = budget.schedulable_bytes + budget.publishing_bytes
        with (
            connected(self.address, budget.cpus, memory_bytes, budget.store_bytes),
            publishers.at_work(),
        ):
            self.meter.connected_s = time.monotonic()
            if self.address:
                urls = _input_urls(open_units()[:1])
                check_shared_paths([work.output, work.job.checkpoint, *urls])
            retries = 0
            for _ in range(PASSES):
                try:
                    retries += self._run_rounds(open_units, poll)
                except TransientError:  # one store failed some units: the others' are complete
                    _publish_rest(publishers, poll)
                    raise
                _publish_rest(publishers, poll)
                if work.out_of_time or not open_units():
                    break
        return retries

    def _run_rounds(self, open_units: Callable[[], list[Unit]], poll: Poll) -> int:
        retries, reason = 0, ""
        for number in range(ROUNDS):
            units = open_units()
            if self.work.out_of_time:
                return retries
            if units and number:
                LOG.warning("units without an outcome: %d; retrying them%s", len(units), reason)
            if units:
                result = Round(self.work, self.stages, units, self.meter).run(poll)
                retries += result.retries
                reason = result.first_reason
        if not self.work.out_of_time:
            _isolate_each(self.work, open_units(), poll)
        return retries


def _input_urls(units: Sequence[Unit]) -> list[str]:
    return [block.scene.url for unit in units for block in unit.blocks]


def _publish_rest(publishers: Publishers, poll: Poll) -> None:
    """Wait until no shard is left to publish. A publication is retried a few times and is then an
    error."""
    started_s = noted_s = time.monotonic()
    while publishers.left:
        poll()
        publishers.wait(POLL_S)
        if time.monotonic() - noted_s > NOTE_S:
            noted_s = time.monotonic()
            LOG.warning(
                "shards that are still being published: %d, since %.0f s",
                publishers.left,
                noted_s - started_s,
            )


def _isolate_each(work: Work, units: Sequence[Unit], poll: Poll) -> None:
    stalls: list[TransientError] = []
    for unit in units:
        if work.out_of_time:
            break
        LOG.warning("a unit of %s is retried in isolation", unit.blocks[0].scene.url)
        try:
            segment_in_isolation(work, unit)
        except TransientError as error:
            stalls.append(error)
            if len(stalls) == STALLED_UNITS:
                break
        poll()
    if stalls:
        raise stalls[0]

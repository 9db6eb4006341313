"""Watches unit files appear, has each shard published as soon as it is complete, reports progress.

What is done is what the listings say; no runner reports anything. Whether shards are published in
this process or in others is not for this room to know.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.driver.quarantine import Quarantine, remedy
from pipeline.driver.tally import Tally
from pipeline.errors import LOG, UnfinishedError
from pipeline.imagery.brightness import BrightnessTally
from pipeline.output.layout import Output, delete_unit, unit_path
from pipeline.output.outcomes import DamagedUnitError, failures_in, outcome_of, warn_of_damage
from pipeline.output.publishing import empty_work_folder
from pipeline.output.replacement import delete_replaced_rows
from pipeline.output.shard import Shard
from pipeline.progress import Progress
from pipeline.stages import ShardResult, UnpublishedShard
from pipeline.unit import Unit, UnitOutcome

OnProgress = Callable[[Progress], None]
HEALINGS = 2
"""How often a run computes a unit again whose file turns out to be damaged."""


class Publisher(Protocol):
    """Publishes complete shards."""

    def start(self, shard: Shard) -> None:
        """Accept a shard whose units all have an outcome; publish it now or later."""

    def advance(self) -> list[ShardResult]:
        """The shards published since the last call, and those that need units computed again, with
        the retries of other processes than this one. Raises the error of a shard that cannot be
        published."""


class Tracker:
    """The progress of one run. Call `start` first, `poll` repeatedly while a runner works, `close`
    when it has stopped."""

    def __init__(
        self,
        output: Output,
        shards: Sequence[Shard],
        quarantine: Quarantine,
        publisher: Publisher,
        notes: tuple[str, ...],
        on_progress: OnProgress,
    ) -> None:
        self._output = output
        self._shards = shards
        self._quarantine = quarantine
        self._publisher = publisher
        self._on_progress = on_progress
        self.notes = notes
        self.tally = Tally(brightness=BrightnessTally(output.job.value_range))
        self.units_to_compute = sum(len(shard.units) for shard in shards)
        """Units without an outcome when this run started."""
        self.nothing_to_do = False
        """Whether every shard was published when this run started."""
        self.first_unit_s: float | None = None
        """When the first unit of this run started, on the monotonic clock; None: none has an
        outcome yet."""
        self.first_unit_cpu_s = 0.0
        """CPU time that this process had used when the first unit was seen."""
        self._created_s = time.monotonic()
        self._open: dict[str, Shard] = {}
        """shard_id -> shard, for those that are not published yet."""
        self._publishing: set[str] = set()
        """The ids of those that were handed to the publisher."""
        self._done: dict[str, set[str]] = {}
        """shard_id -> ids of the units that have an outcome."""
        self._damages: Counter[str] = Counter()
        """unit_id -> how often its file was damaged in this run."""
        self._total_px = sum(shard.pixels for shard in shards)
        self._total_units = self.units_to_compute
        self._done_px = self._done_units = 0
        self._warned = False

    def start(self) -> None:
        """Find what is done, and delete what a crash has left behind."""
        committed = self._clean()
        self._open = {s.shard_id: s for s in self._shards if s.shard_id not in committed}
        self._done = {shard_id: self._appeared(shard) for shard_id, shard in self._open.items()}
        open_units = self.open_units()
        self.units_to_compute, self.nothing_to_do = len(open_units), self.is_done
        self._done_px = self._total_px - sum(unit.pixels for unit in open_units)
        self._done_units = self._total_units - self.units_to_compute

    def open_units(self) -> list[Unit]:
        """Units without an outcome."""
        return [
            unit
            for shard in self._open.values()
            for unit in shard.units
            if unit.unit_id not in self._done[shard.shard_id]
        ]

    @property
    def is_done(self) -> bool:
        """Whether every shard is published."""
        return not self._open

    def poll(self) -> None:
        """Count new outcomes, hand complete shards to the publisher, and report progress.

        Raises UnfinishedError if more inputs failed than allowed, or if a unit's file is damaged
        again and again; what has been computed is kept.
        """
        at_work = self._output.store.list("work")  # one request, however many shards are open
        for shard_id, shard in self._open.items():
            if shard_id in at_work:
                self._count_new(shard)
        self._check_quarantine()
        for shard_id, shard in self._open.items():
            complete = len(self._done[shard_id]) == len(shard.units)
            if complete and shard_id not in self._publishing:
                self._publishing.add(shard_id)
                self._publisher.start(shard)
        for result in self._publisher.advance():
            self.tally.retries += result.retries
            if isinstance(result, UnpublishedShard):
                self._reopen(result)
                continue
            del self._open[result.shard_id]
            self.tally.publish_s += result.seconds
            self._quarantine.add(result.failures)
        self._on_progress(self._progress())

    def close(self) -> None:
        """Call once when the runner has stopped, and every publication with it."""
        self._clean()
        self.warn_of_brightness()

    def warn_of_brightness(self) -> None:
        """Call once when no more units will come."""
        self._warn_once(self.tally.brightness.warning)

    def _progress(self) -> Progress:
        started_s = self.first_unit_s
        return Progress(
            done_px=self._done_px - self._quarantine.pixels,
            total_px=self._total_px,
            computed_px=self.tally.pixels,
            elapsed_s=0.0 if started_s is None else time.monotonic() - started_s,
            done_units=self._done_units,
            total_units=self._total_units,
            notes=self.notes,
            quarantined_px=self._quarantine.pixels,
            computed_units=self.tally.units,
            quarantined=len(self._quarantine.failures),
            retries=self.tally.retries,
        )

    def _clean(self) -> set[str]:
        """Delete what committed shards have left behind, and return their ids: a crash may have
        come between commit and clean-up, and a task that Ray repeated may have written its unit
        once more."""
        committed = self._output.committed()
        shards = [shard for shard in self._shards if shard.shard_id in committed]
        for shard in shards:
            empty_work_folder(self._output, shard.shard_id)
        # A writer of an earlier run that was only slow, not dead, may have put rows back.
        for shard in shards:
            delete_replaced_rows(self._output, shard)
        return committed

    def _check_quarantine(self) -> None:
        reason = self._quarantine.too_many() if self._open else None
        if reason:
            raise UnfinishedError(
                f"{self._output.store.root}: {reason}. {remedy(True)}; what is done is kept"
            )

    def _appeared(self, shard: Shard) -> set[str]:
        """Ids of the shard's units that have their file."""
        return self._output.units_done(shard.shard_id) & {unit.unit_id for unit in shard.units}

    def _count_new(self, shard: Shard) -> None:
        done = self._done[shard.shard_id]
        if len(done) == len(shard.units):
            return
        new = self._appeared(shard) - done
        for unit in shard.units if new else ():
            if unit.unit_id not in new:
                continue
            try:
                outcome = outcome_of(self._output, unit)
            except DamagedUnitError as error:
                self._heal(unit, str(error))
                continue
            except FileNotFoundError:  # somebody has deleted it since it was listed
                continue
            done.add(unit.unit_id)
            self._count(unit, outcome)
            self._quarantine.add(failures_in(outcome, shard))

    def _reopen(self, shard: UnpublishedShard) -> None:
        """Open the units of a shard whose files turned out to be damaged."""
        self._publishing.remove(shard.shard_id)
        for unit in self._open[shard.shard_id].units:
            if unit.unit_id in shard.damages:
                self._heal(unit, shard.damages[unit.unit_id])
                self._done[shard.shard_id].discard(unit.unit_id)
                self._done_px -= unit.pixels
                self._done_units -= 1
                self.units_to_compute += 1

    def _heal(self, unit: Unit, why: str) -> None:
        """Delete a unit's damaged file, so that it is computed again."""
        self._damages[unit.unit_id] += 1
        if self._damages[unit.unit_id] > HEALINGS:
            raise UnfinishedError(
                f"{self._output.store.root}/{unit_path(unit)}: is damaged whenever it has been"
                f" written ({why}); check the disk or the store. What is done is kept, the same"
                " command resumes the run"
            )
        warn_of_damage(self._output, unit, why)
        delete_unit(self._output.store, unit)

    def _count(self, unit: Unit, outcome: UnitOutcome) -> None:
        if self.first_unit_s is None:
            stages_s = outcome.read_s + outcome.segment_s + outcome.finish_s
            self.first_unit_s = max(self._created_s, time.monotonic() - stages_s)
            self.first_unit_cpu_s = time.process_time()
        self._done_px += unit.pixels
        self._done_units += 1
        self.tally.add(unit, outcome, self._output.job.settings)
        brightness = self.tally.brightness
        self._warn_once(brightness.warning if brightness.is_out_of_range else None)

    def _warn_once(self, warning: str | None) -> None:
        if warning and not self._warned:
            self._warned = True
            LOG.warning("%s", warning)

"""Watches the unit files appear, has each shard published as it becomes complete, and counts.

What is done is what the listings say; no runner reports anything. Where shards are published, in
this process or in others, is not for this room to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.driver.quarantine import Quarantine, remedy
from pipeline.errors import LOG, UnfinishedError
from pipeline.imagery.brightness import BrightnessTally
from pipeline.output.layout import Output
from pipeline.output.outcomes import failures_in, outcome_of
from pipeline.output.publishing import clean
from pipeline.output.replacement import supersede
from pipeline.output.shard import Shard
from pipeline.planning.cost import Cost
from pipeline.progress import Progress
from pipeline.stages import PublishedShard
from pipeline.unit import Unit, UnitOutcome


@dataclass
class Tally:
    """Sums over the units that this run has computed."""

    units: int = 0
    pixels: int = 0
    """Segmented."""
    windows: int = 0
    grid_windows: float = 0.0
    read_s: float = 0.0
    segment_s: float = 0.0
    finish_s: float = 0.0
    publish_s: float = 0.0
    retries: int = 0
    area_m2: float = 0.0
    """Of the valid pixels that have a place on Earth."""
    gpu_bytes: int | None = None
    """The most that a replica held at once; None: no GPU."""
    gpu_busy_s: float = 0.0
    gpu_s: float = 0.0
    """Of segmenting while a GPU said how busy it was."""


class Publisher(Protocol):
    """Whoever publishes complete shards."""

    def start(self, shard: Shard) -> None:
        """Takes a shard all of whose units have an outcome, and need not have published it yet."""

    def advance(self) -> list[PublishedShard]:
        """What was published since the last time; retries: of other processes than this one.
        Raises what became of a shard that cannot be."""


class Tracker:
    """Call `begin` first, `poll` now and then while a runner works, `close` when it has ended."""

    def __init__(
        self,
        output: Output,
        shards: Sequence[Shard],
        cost: Cost,
        quarantine: Quarantine,
        publications: Publisher,
        notes: tuple[str, ...],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._output = output
        self._shards = shards
        self._cost = cost
        self._quarantine = quarantine
        self._publications = publications
        self.notes = notes
        self._on_progress = on_progress
        self.began: float | None = None
        """When the first unit of this run began, on the monotonic clock; None: none has an outcome
        yet."""
        self.began_cpu_s = 0.0
        """What this process had computed when the first unit was seen."""
        self._created = time.monotonic()
        self.tally = Tally()
        self._open: dict[str, Shard] = {}
        """Not published yet."""
        self._complete: set[str] = set()
        """Of these, the ones that are being published."""
        self._done: dict[str, set[str]] = {}
        self._outcome_px = self._done_units = 0
        self._total_px = sum(shard.pixels for shard in shards)
        self._total_units = sum(len(shard.units) for shard in shards)
        self.to_compute = self._total_units
        """Units without an outcome when this run began."""
        self.seen = BrightnessTally()
        self._said = False
        self.idle = False
        """Whether every shard was published by then, so that there was nothing to do."""

    def begin(self) -> None:
        """Finds what is done, and empties what a crash has left."""
        committed = self._clean()
        self._open = {s.shard_id: s for s in self._shards if s.shard_id not in committed}
        self._done = {shard_id: self._appeared(shard) for shard_id, shard in self._open.items()}
        left = self.open_units()
        self.to_compute, self.idle = len(left), self.is_done
        self._outcome_px = self._total_px - sum(unit.pixels for unit in left)
        self._done_units = self._total_units - self.to_compute

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
        """Takes in what is new, has published what is complete, and reports progress.

        Raises UnfinishedError where more failed than is allowed; what has been computed is kept.
        """
        at_work = self._output.store.list("work")  # one request, however many shards are open
        for shard_id, shard in self._open.items():
            if shard_id in at_work:
                self._take_in(shard)
        self._check()
        for shard_id, shard in self._open.items():
            whole = len(self._done[shard_id]) == len(shard.units)
            if whole and shard_id not in self._complete:
                self._complete.add(shard_id)
                self._publications.start(shard)
        for published in self._publications.advance():
            del self._open[published.shard_id]
            self.tally.publish_s += published.seconds
            self.tally.retries += published.retries
        self._report()

    def _report(self) -> None:
        self._on_progress(
            Progress(
                done_px=self._outcome_px - self._quarantine.pixels,
                total_px=self._total_px,
                computed_px=self.tally.pixels,
                elapsed_s=0.0 if self.began is None else time.monotonic() - self.began,
                done_units=self._done_units,
                total_units=self._total_units,
                notes=self.notes,
                quarantined_px=self._quarantine.pixels,
                computed_units=self.tally.units,
                quarantined=len(self._quarantine.failures),
                retries=self.tally.retries,
            )
        )

    def close(self) -> None:
        """Call once when the runner has ended, and every publication with it."""
        self._clean()
        self._doubt(self.seen.warning)

    def _doubt(self, why: str | None) -> None:
        if why and not self._said:
            self._said = True
            LOG.warning("%s", why)

    def _clean(self) -> set[str]:
        """Empties what committed shards have left: a crash may have come between commit and
        clean-up, and a task that Ray repeated may have written its unit once more."""
        committed = self._output.committed()
        here = [shard for shard in self._shards if shard.shard_id in committed]
        for shard in here:
            clean(self._output, shard.shard_id)
        # A writer of an earlier run that was only slow, not dead, may have put rows back.
        for shard in here:
            supersede(self._output, shard)
        return committed

    def _check(self) -> None:
        why = self._quarantine.too_many() if self._open else None
        if why:
            raise UnfinishedError(
                f"{self._output.store.root}: {why}. {remedy(True)}; what is done is kept"
            )

    def _appeared(self, shard: Shard) -> set[str]:
        """Ids of the shard's units that have their file."""
        return self._output.units_done(shard.shard_id) & {unit.unit_id for unit in shard.units}

    def _take_in(self, shard: Shard) -> None:
        done = self._done[shard.shard_id]
        if len(done) == len(shard.units):
            return
        appeared = self._appeared(shard) - done
        for unit in shard.units if appeared else ():
            if unit.unit_id in appeared:
                outcome = outcome_of(self._output, unit)
                self._count(unit, outcome)
                self._quarantine.add(failures_in(outcome, shard))
        done |= appeared

    def _count(self, unit: Unit, outcome: UnitOutcome) -> None:
        if self.began is None:
            stages_s = outcome.read_s + outcome.segment_s + outcome.finish_s
            self.began = max(self._created, time.monotonic() - stages_s)
            self.began_cpu_s = time.process_time()
        self._outcome_px += unit.pixels
        self._done_units += 1
        failed = {(failure.scene_id, failure.window) for failure in outcome.failures}
        segmented = [b for b in unit.blocks if (b.scene.scene_id, str(b.core)) not in failed]
        tally = self.tally
        tally.units += 1
        tally.pixels += sum(block.core.pixels for block in segmented)
        tally.windows += outcome.windows
        tally.grid_windows += sum(self._cost.grid_windows(block) for block in segmented)
        tally.read_s += outcome.read_s
        tally.segment_s += outcome.segment_s
        tally.finish_s += outcome.finish_s
        tally.retries += outcome.retries
        tally.area_m2 += outcome.area_m2
        if outcome.brightness is not None:
            self.seen.add(outcome.brightness)
            self._doubt(self.seen.warning if self.seen.is_out_of_range else None)
        if outcome.gpu_bytes is not None:
            tally.gpu_bytes = max(tally.gpu_bytes or 0, outcome.gpu_bytes)
        if outcome.gpu_busy is not None:
            tally.gpu_s += outcome.segment_s
            tally.gpu_busy_s += outcome.segment_s * outcome.gpu_busy

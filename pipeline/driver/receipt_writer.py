"""What a run did, however it ends: its tally and the output's commits, as a Receipt."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.cluster.callbacks import PoolMeter
from pipeline.driver.bottleneck import Bottleneck
from pipeline.driver.survey import Survey
from pipeline.driver.tracker import Tracker
from pipeline.errors import (
    CheckpointError,
    SwathError,
    UnfinishedError,
    UnseenError,
    UsageError,
)
from pipeline.estimate import cost_of, per_1000_km2
from pipeline.output.layout import Output
from pipeline.output.outcomes import outcomes
from pipeline.output.shard import Shard
from pipeline.planning.memory_budget import MemoryBudget
from pipeline.receipt import DONE, Receipt
from pipeline.settings import Execution
from pipeline.storage.retry import retries_so_far
from pipeline.storage.schemes import open_store
from pipeline.unit import Unit


@dataclass(frozen=True)
class RunStart:
    """Of a run."""

    when: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock_s: float = field(default_factory=time.monotonic)
    tries: int = field(default_factory=retries_so_far)

    @property
    def name(self) -> str:
        """Of the run's records."""
        return self.when.strftime("%Y%m%dT%H%M%S.%fZ")

    def until(self, hours: float | None) -> float:
        """So many hours later, in seconds of the clock that all machines share."""
        return math.inf if hours is None else self.when.timestamp() + hours * 3600


@dataclass(frozen=True)
class ReceiptWriter:
    """Of one run, from the moment that its plan is recorded."""

    output: Output
    shards: Sequence[Shard]
    tracker: Tracker
    execution: Execution
    budget: MemoryBudget
    survey: Survey
    beginning: RunStart
    meter: PoolMeter

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever ends the block early leaves a receipt that says so, if the store still answers.

        What is refused by now, a credential that was revoked for example, is no fault of the
        command any more: it is raised as an UnfinishedError. An UnseenError is one, and stays.
        """
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            with suppress(SwathError, OSError):
                self._leave(_in_words(error))
            if isinstance(error, UnseenError):
                raise
            if isinstance(error, (UsageError, CheckpointError)):
                raise UnfinishedError(
                    f"{error}; what is done is kept, the same command resumes the run"
                ) from error
            raise

    def close(self) -> Receipt:
        """Of a run that has come to its end. Raises UnfinishedError where the plan has not."""
        receipt = self._receipt(self.output, DONE)
        if receipt.scenes_planned != receipt.outcomes:
            raise UnfinishedError(
                f"{self.output.store.root}: {receipt.outcomes} of {receipt.scenes_planned} scenes"
                f" have an outcome; without one: {_some(self.tracker.open_units())}; the same"
                " command resumes the run"
            )
        if withheld := self.survey.withheld:
            more = f" and {len(withheld) - 1} more" if len(withheld) > 1 else ""
            raise UnfinishedError(
                f"{self.output.store.root}: the store does not give {withheld[0]}{more}; all else"
                " is done, and the same command tries again"
            )
        if unplanned := self.survey.unplanned:
            more = f" and {len(unplanned) - 1} more" if len(unplanned) > 1 else ""
            raise UnfinishedError(
                f"{self.output.store.root}: {unplanned[0]}{more} cannot be planned while other"
                " drivers are at work here; all else of this share is done, and the same command"
                " tries again"
            )
        self._write(self.output, receipt)
        return receipt

    def _leave(self, ended: str) -> None:
        access = self.execution.access.impatient()  # somebody waits for the end
        output = Output(open_store(self.output.store.root, access), self.output.job)
        self._write(output, self._receipt(output, ended))

    def _write(self, output: Output, receipt: Receipt) -> None:
        output.write_receipt(self.beginning.name, receipt.to_json())

    def _receipt(self, output: Output, ended: str) -> Receipt:
        tally, came = self.tracker.tally, outcomes(self.shards, output.commits())
        now = time.monotonic()
        seconds = now - self.beginning.clock_s
        startup_s = (self.tracker.began or now) - self.beginning.clock_s
        on_ray = self.execution.runner == "ray"
        # With the plain loop the stages' retries are this process's own.
        retries = retries_so_far() - self.beginning.tries + self.survey.waited
        replicas = self._replicas(seconds - startup_s)
        return Receipt(
            started=self.beginning.when.isoformat(timespec="seconds"),
            seconds=seconds,
            startup_s=startup_s,
            ended=ended,
            output=output.store.root,
            runner=self.execution.runner,
            device=self.budget.machine.device,
            replicas=self.budget.machine.replicas if self.tracker.to_compute else 0,
            units=sum(len(shard.units) for shard in self.shards),
            units_computed=tally.units,
            scenes_planned=came.planned,
            scenes_done=came.done,
            scenes_partial=came.partial,
            scenes_quarantined=came.quarantined,
            failures=came.failures,
            megapixels=tally.pixels / 1e6,
            megapixels_per_s=tally.pixels / 1e6 / seconds / replicas,
            windows=round(tally.grid_windows),
            windows_computed=tally.windows,
            read_s=tally.read_s,
            segment_s=tally.segment_s,
            finish_s=tally.finish_s,
            publish_s=tally.publish_s,
            retries=retries + (tally.retries if on_ray else 0),
            **self._speed(seconds, startup_s, replicas),
            pixels_without_area=came.pixels_without_area,
            notes=(*self.tracker.notes, *filter(None, [self.tracker.seen.warning])),
        )

    def _replicas(self, steady_s: float) -> float:
        """That were at work: all, or of a pool that grows as many as there were on average."""
        machine = self.budget.machine
        if machine.min_replicas is None or not steady_s or not self.meter.replica_s:
            return machine.replicas
        return min(machine.replicas, self.meter.replica_s / steady_s)

    def _speed(self, seconds: float, startup_s: float, replicas: float) -> dict[str, Any]:
        """What bounded the run, how busy its replicas were, and what it cost."""
        tally, budget, told = self.tracker.tally, self.budget, self.execution
        driver_s = 0.0
        if told.runner == "ray" and tally.units:
            driver_s = time.process_time() - self.tracker.began_cpu_s
        joined = told.address is not None
        idle, bound = (
            self.tracker.idle,
            Bottleneck(tally, budget, replicas, startup_s, driver_s, joined),
        )
        steady_s = (seconds - startup_s) * replicas
        km2 = tally.area_m2 / 1e6 or None
        cost = cost_of(seconds / 3600, told.price_per_hour)
        return {
            "bounded_by": None if idle else bound.stage,
            "relief": None if idle else bound.relief,
            "megapixels_per_s_steady": tally.pixels / 1e6 / steady_s if steady_s else 0.0,
            # The first unit's beginning is known to a second.
            "busy": min(1.0, tally.segment_s / steady_s) if steady_s and not idle else None,
            "gpu_utilisation": tally.gpu_busy_s / tally.gpu_s if tally.gpu_s else None,
            "gpu_memory_bytes": tally.gpu_bytes,
            "driver_s": driver_s,
            "km2": km2,
            "cost": cost,
            "cost_per_1000_km2": per_1000_km2(cost, km2),
        }


def _some(units: Sequence[Unit]) -> str:
    """The scenes of units, by name where they are few."""
    names = sorted({block.scene.scene_id for unit in units for block in unit.blocks})
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _in_words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "stopped by hand"
    # Only our own words are known to hold no secret.
    return str(error) if isinstance(error, SwathError) else type(error).__name__

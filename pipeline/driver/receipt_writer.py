"""Writes the receipt of a run, however the run ends: its tally and the output's commits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pipeline.driver.bottleneck import Bottleneck
from pipeline.driver.laps import RAY as RAY_START
from pipeline.driver.laps import REPLICAS
from pipeline.driver.preparation import Preparation
from pipeline.driver.run_start import RunStart
from pipeline.driver.runner import Runner
from pipeline.driver.tracker import Tracker
from pipeline.driver.warning_notes import WarningNotes
from pipeline.errors import CheckpointError, SwathError, UnfinishedError, UnseenError, UsageError
from pipeline.estimate import cost_of, per_1000_km2
from pipeline.output.layout import Output
from pipeline.output.outcomes import count_outcomes
from pipeline.receipt import DONE, Receipt
from pipeline.settings import RAY
from pipeline.storage.retry import retries_so_far
from pipeline.storage.schemes import open_store
from pipeline.unit import Unit

_NAMED_SCENES = 20
"""The largest number of scenes that a message names."""


@dataclass(frozen=True)
class ReceiptWriter:
    """Writes the receipt of one run, from the moment that its plan is recorded."""

    output: Output
    preparation: Preparation
    tracker: Tracker
    runner: Runner
    start: RunStart
    said: WarningNotes

    @contextmanager
    def write_on_error(self) -> Iterator[None]:
        """Write a receipt that names the reason if an error or Ctrl-C ends the block, provided the
        store still answers.

        A refusal at this point, of a credential that was revoked for example, is no longer the
        command's fault: it is raised as an UnfinishedError. An UnseenError is the command's fault,
        and stays.
        """
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            self.tracker.warn_of_brightness()
            with suppress(SwathError, OSError):
                self._write_early(_reason(error))
            if isinstance(error, UnseenError):
                raise
            if isinstance(error, (UsageError, CheckpointError)):
                raise UnfinishedError(
                    f"{error}; what is done is kept, the same command resumes the run"
                ) from error
            raise

    def close(self) -> Receipt:
        """Write and return the receipt of a run that came to its end. Raises UnfinishedError if
        some input has no outcome."""
        receipt = self._receipt(self.output, DONE)
        self._check_finished(receipt)
        self._write(self.output, receipt)
        return receipt

    def _check_finished(self, receipt: Receipt) -> None:
        root, survey = self.output.store.root, self.preparation.survey
        if receipt.scenes_planned != receipt.outcomes:
            raise UnfinishedError(
                f"{root}: {receipt.outcomes} of {receipt.scenes_planned} scenes have an outcome;"
                f" without one: {_scene_names(self.tracker.open_units())}; the same command resumes"
                " the run"
            )
        if survey.unavailable:
            raise UnfinishedError(
                f"{root}: the store does not give {_first_of(survey.unavailable)}; all else is"
                " done, and the same command tries again"
            )
        if survey.unplanned:
            raise UnfinishedError(
                f"{root}: {_first_of(survey.unplanned)} cannot be planned while other drivers are"
                " at work here; all else of this share is done, and the same command tries again"
            )

    def _write_early(self, reason: str) -> None:
        access = self.preparation.request.execution.access.impatient()  # somebody waits for the end
        output = Output(open_store(self.output.store.root, access), self.output.job)
        self._write(output, self._receipt(output, reason))

    def _write(self, output: Output, receipt: Receipt) -> None:
        output.write_receipt(self.start.name, receipt.to_json())

    def _receipt(self, output: Output, ended: str) -> Receipt:
        tracker, shards = self.tracker, self.preparation.shards
        tally, results = tracker.tally, count_outcomes(shards, output.commits())
        machine = self.runner.budget.machine
        now_s = time.monotonic()
        seconds = now_s - self.start.clock_s
        startup_s = (tracker.first_unit_s or now_s) - self.start.clock_s
        replicas = self._mean_replicas(seconds - startup_s)
        return Receipt(
            started=self.start.when.isoformat(timespec="seconds"),
            seconds=seconds,
            startup_s=startup_s,
            startup=self._startup(startup_s),
            ended=ended,
            output=output.store.root,
            runner=self.runner.name,
            device=machine.device,
            replicas=machine.replicas if tracker.units_to_compute else 0,
            units=sum(len(shard.units) for shard in shards),
            units_computed=tally.units,
            scenes_planned=results.planned,
            scenes_done=results.done,
            scenes_partial=results.partial,
            scenes_quarantined=results.quarantined,
            failures=results.failures,
            megapixels=tally.pixels / 1e6,
            megapixels_per_s=tally.pixels / 1e6 / seconds / replicas,
            windows=round(tally.grid_windows),
            windows_computed=tally.windows,
            read_s=tally.read_s,
            segment_s=tally.segment_s,
            finish_s=tally.finish_s,
            publish_s=tally.publish_s,
            retries=self._retries(),
            **self._speed(seconds, startup_s, replicas),
            pixels_without_area=results.pixels_without_area,
            notes=(*tracker.notes, *self.said.notes),
        )

    def _startup(self, startup_s: float) -> dict[str, float]:
        """The parts of the start; what no lap has counted is Ray's and the replicas'."""
        parts = dict(self.preparation.request.loop.laps.seconds)
        left_s = max(0.0, startup_s - sum(parts.values()))
        if self.runner.connected_s is not None:
            before_s = self.start.clock_s + sum(parts.values())
            parts[RAY_START] = min(left_s, max(0.0, self.runner.connected_s - before_s))
            left_s -= parts[RAY_START]
        if self.tracker.units_to_compute:
            parts[REPLICAS] = left_s
        return parts

    def _retries(self) -> int:
        """Retries of this process, of those that read headers, and of those that compute."""
        retries = retries_so_far() - self.start.retries + self.preparation.survey.header_retries
        return retries + (self.tracker.tally.retries if self.runner.counts_retries else 0)

    def _mean_replicas(self, steady_s: float) -> float:
        """Replicas at work: all of them, or the average size of a growing pool."""
        machine, replica_s = self.runner.budget.machine, self.tracker.tally.replica_s
        if machine.min_replicas is None or not steady_s or not replica_s:
            return machine.replicas
        return min(machine.replicas, replica_s / steady_s)

    def _speed(self, seconds: float, startup_s: float, replicas: float) -> dict[str, Any]:
        """What limited the run, how busy its replicas were, and what it cost."""
        tracker, execution = self.tracker, self.preparation.request.execution
        tally, idle = tracker.tally, tracker.nothing_to_do
        driver_s = 0.0
        if self.runner.name == RAY and tally.units:
            driver_s = time.process_time() - tracker.first_unit_cpu_s
        joined, budget = execution.address is not None, self.runner.budget
        bottleneck = Bottleneck(tally, budget, replicas, startup_s, driver_s, joined)
        steady_s = (seconds - startup_s) * replicas
        km2 = tally.area_m2 / 1e6 or None
        cost = cost_of(seconds / 3600, execution.price_per_hour)
        return {
            "bounded_by": None if idle else bottleneck.stage,
            "relief": None if idle else bottleneck.relief,
            "megapixels_per_s_steady": tally.pixels / 1e6 / steady_s if steady_s else 0.0,
            # The start of the first unit is known to a second.
            "busy": min(1.0, tally.segment_s / steady_s) if steady_s and not idle else None,
            "gpu_utilisation": tally.gpu_busy_s / tally.gpu_s if tally.gpu_s else None,
            "gpu_memory_bytes": tally.gpu_bytes,
            "driver_s": driver_s,
            "km2": km2,
            "cost": cost,
            "cost_per_1000_km2": per_1000_km2(cost, km2),
        }


def _scene_names(units: Sequence[Unit]) -> str:
    """The ids of the units' scenes; of many, the first ones."""
    names = sorted({block.scene.scene_id for unit in units for block in unit.blocks})
    hidden = len(names) - _NAMED_SCENES
    return ", ".join(names[:_NAMED_SCENES]) + (f" and {hidden:,} more" if hidden > 0 else "")


def _first_of(urls: Sequence[str]) -> str:
    """The first URL, and how many more there are."""
    return urls[0] + (f" and {len(urls) - 1} more" if len(urls) > 1 else "")


def _reason(error: BaseException) -> str:
    """Why the run ended, for its receipt."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped by hand"
    # Only our own messages are known to contain no secret.
    return str(error) if isinstance(error, SwathError) else type(error).__name__

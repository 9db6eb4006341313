"""One round of the flow: Ray Data works in a thread of its own, and this thread watches it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.cluster.callbacks import Control, PoolMeter, control_callback, meter_callback
from pipeline.cluster.dataset import segmented_units, write_units
from pipeline.cluster.ray_errors import LoggedErrors
from pipeline.cluster.stages import Stages
from pipeline.errors import LOG
from pipeline.stages import Work
from pipeline.unit import Unit

POLL_S = 1.0
STOP_S = 30.0
"""Time for Ray Data to stop in order; shutting the cluster down under it would end this process."""

Poll = Callable[[], None]
"""Called about once a second while others work."""


@dataclass(frozen=True)
class RoundResult:
    """What a round leaves behind, besides the units' files."""

    retries: int
    """Retries of writes of units' files."""
    first_reason: str
    """Why the first unit got no outcome, as the end of a sentence; "" if none was lost."""


class Round:
    """Units on their way through Ray Data, once."""

    def __init__(self, work: Work, stages: Stages, units: Sequence[Unit], meter: PoolMeter) -> None:
        self._work = work
        self._control = Control(work.until)
        callbacks = (
            control_callback(self._control, stages.read.__name__),
            meter_callback(meter, stages.segment.__name__),
        )
        self._dataset = segmented_units(work, stages, units, callbacks)
        self._sink = stages.sink(work)
        self._errors = LoggedErrors()
        # Not is_alive: a join that Ctrl-C interrupts claims that the thread ended (bpo-45274).
        self._ended = threading.Event()

    def run(self, poll: Poll) -> RoundResult:
        """Compute the units. Some may be left without an outcome.

        Raises what makes it useless to continue, and what `poll` raises: Ray Data is stopped then.
        """
        with self._errors.collect():
            threading.Thread(target=self._execute, daemon=True).start()
            try:
                self._watch(poll)
            finally:
                self._stop()
        poll()
        self._errors.check()
        return RoundResult(self._sink.retries, self._errors.first_reason())

    def _execute(self) -> None:
        """Ray Data's own thread."""
        try:
            write_units(self._dataset, self._sink, self._work)
        except Exception as error:  # noqa: BLE001 - raised by check, in the thread that watches
            if not self._control.stopping:
                self._errors.add_fatal(error)
        finally:
            self._ended.set()

    def _watch(self, poll: Poll) -> None:
        try:
            while not self._ended.wait(POLL_S):
                poll()
                self._errors.check()
        except KeyboardInterrupt:
            LOG.warning("stopping")
            raise

    def _stop(self) -> None:
        """Stop Ray Data if it is still running, and wait for it."""
        if not self._ended.is_set():
            # What it says of being stopped is no news. It may say so after this round, too: the
            # level stays until another round sets it.
            logging.getLogger("ray.data").setLevel(logging.CRITICAL + 1)
        self._control.stopping = True
        self._ended.wait(STOP_S)

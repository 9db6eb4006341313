"""Why units got no outcome on Ray: its errors, in words of ours. Ray Data only logs them.

Knows nothing of units: the next round sees to them.
"""

from __future__ import annotations

import logging

from ray.exceptions import RayActorError, RayTaskError

from pipeline.errors import CheckpointError, TransientError, UnfinishedError, UsageError

_OURS = (UnfinishedError, UsageError, CheckpointError)
STALLED_UNITS = 8
"""Units that no store would serve, before the round is given up: patience has run out for each."""


class Losses(logging.Filter):
    """Of one round, taken from what Ray Data logs while it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._stalled: list[TransientError] = []
        self._fatal: Exception | None = None
        self._lost: BaseException | None = None
        """The first error that is none of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        ours = ours_in(error)
        if isinstance(ours, TransientError):
            self._stalled.append(ours)
        elif ours is not None:
            self._fatal = self._fatal or ours
        else:
            self._lost = self._lost or error
        return False  # the console need not have it

    def end(self, error: Exception) -> None:
        """Takes what has ended the whole round."""
        self._fatal = ours_in(error) or _given_up(error, self.first())

    def first(self) -> str:
        """The first reason why a unit got no outcome, as the end of a sentence."""
        lost = self._lost or next(iter(self._stalled), None)
        return f". The first was lost with {root_of(lost)}" if lost else ""

    def check(self) -> None:
        """Raises what makes it useless to go on."""
        if self._fatal is not None:
            raise self._fatal
        if len(self._stalled) >= STALLED_UNITS:
            raise self._stalled[0]


def ours_in(error: BaseException | None) -> Exception | None:
    """The error of our own in a chain of Ray's. A RayTaskError passes for the error that it wraps,
    but its text is the whole traceback."""
    while error is not None:
        if isinstance(error, _OURS) and not isinstance(error, RayTaskError):
            return error
        error = _beneath(error)
    return None


def _beneath(error: BaseException) -> BaseException | None:
    cause = getattr(error, "cause", None)  # Ray's; of our own errors it is text
    return cause if isinstance(cause, BaseException) else error.__cause__


def root_of(error: BaseException) -> str:
    """What has caused it, in a few words."""
    if ours := ours_in(error):
        return ours.cause if isinstance(ours, TransientError) else str(ours)
    while (deeper := _beneath(error)) is not None:
        error = deeper
    lines = str(error).strip().splitlines() or ["no details"]
    # A dead actor's cause, as Ray gives it: a traceback as text.
    what = lines[-1] if isinstance(error, RayActorError) else lines[0]
    return f"{type(error).__name__}: {what.strip()[:300]}"


def _given_up(error: Exception, first: str) -> UnfinishedError:
    # What is lost with a replica at work is for the next round: this one was loading.
    dead = isinstance(error, RayActorError)
    what = "no replica could be loaded" if dead else "Ray stopped before every unit was done"
    return UnfinishedError(f"{what} ({root_of(error)}){first}; the same command goes on from here")

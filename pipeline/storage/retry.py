"""Calls to a store, retried while they fail transiently. Knows nothing of what is read or written.

Which errors are transient: `pipeline.storage.errors`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import LOG, TransientError
from pipeline.processes.limits import rearm
from pipeline.storage.errors import storage_errors

T = TypeVar("T")

PATIENCE_S = 300.0
"""How long a store may fail before a unit is left open: longer than any restart of one."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
"""Pauses double, and each is shortened at random by up to a half, so that a thousand workers do not
come back at the same moment."""
SILENT_S = 330.0
"""The longest that one call may take without a sign of life: aiohttp gives up after 300 s, and
botocore, as it is configured, after three tries of 25 s."""

_retries = 0


def call_store(url: str, call: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """The result of a call to a store, retried for up to `patience_s` if it fails transiently.

    Raises what `storage_errors` makes of the store's errors, a TransientError once patience ends;
    FileNotFoundError and FileExistsError pass unchanged. `url` is named in the messages.
    """

    def attempt() -> T:
        with storage_errors(url):
            return call()

    return retry_transient(attempt, patience_s)


def retry_transient(call: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """The call's result. Retries it on a TransientError, which is raised once patience ends, or
    would end before the time that the store asks to wait."""
    global _retries  # noqa: PLW0603  a count of the process
    started, pause_s = time.monotonic(), FIRST_PAUSE_S
    while True:
        rearm(SILENT_S)  # a process that waits for a store does not hang
        try:
            return call()
        except TransientError as error:
            left_s = started + patience_s - time.monotonic()
            asked_s = error.retry_after_s or 0.0
            if left_s <= asked_s:
                raise
            if max(pause_s, asked_s) > 2.0:  # a few seconds of trouble are not worth a warning
                LOG.warning("%s; retrying for %.0f s", error.cause, left_s)
            if asked_s:
                rearm(SILENT_S)
            time.sleep(max(asked_s, min(left_s, pause_s * random.uniform(0.5, 1.0))))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            _retries += 1
        finally:
            rearm()


def retries_so_far() -> int:
    """The number of retries in this process; for the receipt."""
    return _retries

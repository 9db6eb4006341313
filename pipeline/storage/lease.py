"""A lock in an object store, or on a disk without locks: a file with a heartbeat, so that one
process at a time holds a name.

A courtesy: correctness rests on idempotent units and create-only commits. So a clock that nobody
shares is good enough, and a race that lets two waiting runs win together is left alone.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from pipeline.errors import LOG, SwathError, UsageError
from pipeline.storage.lock_holder import (
    LockHolder,
    decode_lock,
    encode_lock,
    is_dead,
    planning_message,
    this_process,
)

BEAT_S = 10.0
EXPIRES_S = 45.0
"""Time without a heartbeat after which the holder is dead: it missed four."""
LOOK_S = 1.0
"""Pause between two looks at another run's lock."""


class LeaseStore(Protocol):
    """The part of a store that a lease needs."""

    root: str

    def create(self, path: str, data: bytes) -> bool: ...
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def delete(self, path: str) -> None: ...
    def age_s(self, path: str) -> float: ...


@contextmanager
def hold_lease(store: LeaseStore, name: str, patient: bool = False) -> Iterator[None]:
    """Hold the name for this run. If another run's lock is there, wait until that run turns out to
    be dead, or alive: then raise UsageError, or keep waiting if `patient`."""
    record = {"owner": uuid.uuid4().hex, **this_process()}
    told = False
    while not store.create(name, encode_lock(record, beat=0)):
        try:
            clear_dead_lease(store, name, quiet=told)
        except UsageError:
            if not patient:
                raise
            if not told:
                LOG.warning("%s", planning_message(store.root))
                told = True
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(store, name, record, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join(BEAT_S)  # it may be waiting for a store that does not answer
        with suppress(SwathError, OSError):
            if _owner(store.read(name)) == record["owner"]:
                store.delete(name)


def clear_dead_lease(store: LeaseStore, name: str, quiet: bool = False) -> None:
    """Wait until the lock is gone, and delete it if its holder is dead. Raises UsageError once the
    holder turns out to be alive."""
    try:
        first = store.read(name)
    except FileNotFoundError:
        return
    record = decode_lock(first)
    holder = LockHolder.of(record)
    deadline = time.monotonic() + EXPIRES_S
    if not is_dead(record):
        if not quiet:
            LOG.warning("%s is held by a run on %s; waiting for a sign of life", store.root, holder)
        while time.monotonic() < deadline:
            time.sleep(LOOK_S)
            asked = time.monotonic()
            try:
                latest = store.read(name)
                deadline += time.monotonic() - asked  # a store that fails says nothing of the run
            except FileNotFoundError:
                return
            if latest != first:
                raise UsageError(holder.busy_message(store.root))
    LOG.warning("the run on %s is dead; this run takes its place", holder)
    with suppress(FileNotFoundError):
        store.delete(name)


def current_holder(store: LeaseStore, name: str) -> LockHolder | None:
    """The holder of the name according to the last heartbeat, without waiting for the next; None
    if there is none, or it is dead."""
    try:
        lock, age_s = store.read(name), store.age_s(name)
    except FileNotFoundError:
        return None
    record = decode_lock(lock)
    return None if age_s > EXPIRES_S or is_dead(record) else LockHolder.of(record)


def _beat(store: LeaseStore, name: str, record: dict[str, str], ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        with suppress(SwathError, OSError):  # the next beat may come through
            try:
                if _owner(store.read(name)) != record["owner"] or ended.is_set():
                    return  # another run has taken over: the lock belongs to it
            except FileNotFoundError:
                return
            store.write(name, encode_lock(record, beat))


def _owner(lock: bytes) -> str | None:
    return decode_lock(lock).get("owner")

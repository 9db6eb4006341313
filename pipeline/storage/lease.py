"""A heartbeat in an object store: a name that one process holds at a time.

A courtesy: correctness rests on idempotent units and create-only commits. So a clock that nobody
shares is good enough, and a race that two waiting runs may win together is left alone.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pipeline.errors import LOG, SwathError, UsageError
from pipeline.storage.holder import LockHolder

BEAT_S = 10.0
EXPIRES_S = 45.0
"""Without a beat: four were missed."""
LOOK_S = 1.0


class Shelf(Protocol):
    """What the lock needs of a store."""

    root: str

    def create(self, path: str, data: bytes) -> bool: ...
    def read(self, path: str) -> bytes: ...
    def write(self, path: str, data: bytes) -> None: ...
    def delete(self, path: str) -> None: ...
    def age_s(self, path: str) -> float: ...


def busy_message(root: str, holder: LockHolder) -> str:
    """What a user is told whose run is refused."""
    return (
        f"{root}: another run is at work on this output ({holder}); wait for it to end, or stop it"
    )


def planning_message(root: str) -> str:
    """What a user is told who waits for another driver's planning."""
    return f"{root}: another driver is planning; waiting for it"


@contextmanager
def hold_lease(shelf: Shelf, name: str, patient: bool = False) -> Iterator[None]:
    """Holds the name for this run. Where another run's lock is found, waits until that run is
    seen to be dead, or to be alive: then raises UsageError, or waits on if `patient`."""
    owner = {"owner": uuid.uuid4().hex, **this_process()}
    said = False
    while not shelf.create(name, encode_lock(owner, beat=0)):
        try:
            clear_dead_lease(shelf, name, quiet=said)
        except UsageError:
            if not patient:
                raise
            if not said:
                LOG.warning("%s", planning_message(shelf.root))
                said = True
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(shelf, name, owner, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join(BEAT_S)  # it may wait for a store that does not answer
        with suppress(SwathError, FileNotFoundError):
            if _owner(shelf.read(name)) == owner["owner"]:
                shelf.delete(name)


def clear_dead_lease(shelf: Shelf, name: str, quiet: bool = False) -> None:
    """Returns when the lock is gone; deletes it when its holder is dead. Raises UsageError when
    that is seen to live."""
    try:
        first = shelf.read(name)
    except FileNotFoundError:
        return
    holder = _decode(first)
    where = holder_of(first)
    deadline = time.monotonic() + EXPIRES_S
    if not _is_dead(holder):
        if not quiet:
            LOG.warning("%s is held by a run on %s; waiting for a sign of life", shelf.root, where)
        while time.monotonic() < deadline:
            time.sleep(LOOK_S)
            asked = time.monotonic()
            try:
                now = shelf.read(name)
                deadline += time.monotonic() - asked  # a store that is gone says nothing of the run
            except FileNotFoundError:
                return
            if now != first:
                raise UsageError(busy_message(shelf.root, where))
    LOG.warning("the run on %s is dead; going on in its place", where)
    with suppress(FileNotFoundError):
        shelf.delete(name)


def current_holder(shelf: Shelf, name: str) -> LockHolder | None:
    """Who holds the name, by the last sign of life: for who will not wait for the next one."""
    try:
        lock, age_s = shelf.read(name), shelf.age_s(name)
    except FileNotFoundError:
        return None
    return None if age_s > EXPIRES_S or _is_dead(_decode(lock)) else holder_of(lock)


def _beat(shelf: Shelf, name: str, owner: dict[str, str], ended: threading.Event) -> None:
    beat = 0
    while not ended.wait(BEAT_S):
        beat += 1
        with suppress(SwathError):  # patience has run out: the next beat may come through
            try:
                if _owner(shelf.read(name)) != owner["owner"] or ended.is_set():
                    return  # another run has taken over: the lock is its own
            except FileNotFoundError:
                return
            shelf.write(name, encode_lock(owner, beat))


def this_process() -> dict[str, str]:
    """What a lock that it takes now says of it."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "since": since, **_process(os.getpid())}


def holder_of(lock: bytes) -> LockHolder:
    """Whom a lock names."""
    return LockHolder.of(_decode(lock))


def _process(pid: int) -> dict[str, str]:
    """What tells this process from every other one, and where it can be looked for."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return {
        "pid": str(pid),
        "started": stat.rpartition(")")[2].split()[19],
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
    }


def _is_dead(holder: dict[str, str]) -> bool:
    """Whether it ran where we are, and does no more: then nothing need be waited for."""
    here = _process(os.getpid())
    if any(holder.get(name) != here[name] for name in ("boot", "namespace")):
        return False
    try:
        return _process(int(holder["pid"]))["started"] != holder["started"]
    except (OSError, KeyError, ValueError):
        return True


def _owner(data: bytes) -> str | None:
    return _decode(data).get("owner")


def encode_lock(owner: dict[str, str], beat: int) -> bytes:
    return json.dumps({**owner, "beat": str(beat)}).encode()


def _decode(data: bytes) -> dict[str, str]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}

"""Locks on an output: one driver at a time, or several that share it, and one of them that plans.

A driver holds the lock of its share as long as it works. A driver that shares the output takes that
lock only while it holds PLANNING, and keeps PLANNING until it knows the plan. So a driver that then
finds no other share held is alone: it may add to the plan and delete what dead drivers left. Knows
names of locks; how a store holds one is the store's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipeline.errors import UsageError
from pipeline.share import Share
from pipeline.storage.lock_holder import LockHolder
from pipeline.storage.store import Store

_ALL = "lock.json"
"""Held by a driver that has the output to itself."""
PLANNING = "lock-plan.json"
"""Held by the driver of a share while it plans, or reads the plan."""
_OF_A_SHARE = re.compile(r"lock-(\d+)-of-(\d+)\.json")


def is_lock(name: str) -> bool:
    """Whether a file at the top of an output is a lock."""
    return name == _ALL or (name.startswith("lock-") and name.endswith(".json"))


def _name(share: Share) -> str:
    return _ALL if share.whole else f"lock-{share.number}-of-{share.of}.json"


@contextmanager
def hold_share(store: Store, share: Share) -> Iterator[None]:
    """Hold a share of the output while open, and remove locks of dead drivers that exclude it.

    Raises UsageError if a live driver holds the same share, or one of another division.
    """
    with store.hold(_name(share)):
        for other in _others(store, share):
            if share.whole or not other.endswith(f"-of-{share.of}.json"):
                store.remove_dead_lock(other)
        yield


def is_alone(store: Store, share: Share) -> bool:
    """Whether no other driver works on the output."""
    for other in _others(store, share):
        try:
            store.remove_dead_lock(other)
        except UsageError:
            return False
    return True


def active_drivers(store: Store) -> tuple[LockHolder, ...]:
    """The holders of the output or of shares of it, according to their last signs of life."""
    active = []
    for name in filter(is_lock, store.list("")):
        driver = None if name == PLANNING else store.holder(name)
        if driver is not None:
            share = _OF_A_SHARE.fullmatch(name)
            active.append(replace(driver, shards="/".join(share.groups()) if share else None))
    return tuple(active)


def _others(store: Store, share: Share) -> list[str]:
    """Locks other than this driver's, dead holders' included. PLANNING is shared: drivers of shares
    take it in turn."""
    allowed = (_name(share),) if share.whole else (_name(share), PLANNING)
    return [name for name in store.list("") if is_lock(name) and name not in allowed]

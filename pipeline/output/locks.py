"""Who may work on an output: one driver, or several that share it; and who plans.

A driver holds the name of its share as long as it works. Whoever shares an output takes its name
only while it holds PLANNING, and keeps that until it knows the plan: so whoever finds no other
share held there is alone, and may add to the plan and clear up after the dead.
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
PLANNING = "lock-plan.json"
_OF_A_SHARE = re.compile(r"lock-(\d+)-of-(\d+)\.json")


def is_lock(name: str) -> bool:
    """Of a file at the top of an output."""
    return name == _ALL or (name.startswith("lock-") and name.endswith(".json"))


def _name(share: Share) -> str:
    return _ALL if share.whole else f"lock-{share.number}-of-{share.of}.json"


@contextmanager
def working(store: Store, share: Share) -> Iterator[None]:
    """Holds a share of the output. Raises UsageError where a live driver holds the same, or one
    that is no part of the same division."""
    mine = _name(share)
    with store.hold(mine):
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


def drivers(store: Store) -> tuple[LockHolder, ...]:
    """Who holds the output or a share of it, as far as can be seen at once."""
    found = []
    for name in filter(is_lock, store.list("")):
        driver = None if name == PLANNING else store.holder(name)
        if driver is not None:
            share = _OF_A_SHARE.fullmatch(name)
            found.append(replace(driver, shards="/".join(share.groups()) if share else None))
    return tuple(found)


def _others(store: Store, share: Share) -> list[str]:
    """Locks of others, whether their holders live or not. Who shares the output plans in turn."""
    own = (_name(share),) if share.whole else (_name(share), PLANNING)
    return [name for name in store.list("") if is_lock(name) and name not in own]

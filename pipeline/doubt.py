"""A doubt about an input that is segmented all the same: what a user should look at, and what to
do. Plain values; knows no library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Doubt(NamedTuple):
    """One kind of doubt about one input."""

    kind: str
    """A key of DOUBTS."""
    detail: str
    """What is known about this input: `2 more pages`."""


class Wording(NamedTuple):
    """The words of a kind of doubt, for `N inputs ...`."""

    one: str
    """The predicate for one input."""
    several: str
    """The predicate for several inputs."""
    remedy: str
    """What a user can do, as a clause."""


DOUBTS: dict[str, Wording] = {
    "side_car": Wording(
        "has a file beside it that says nothing",
        "have files beside them that say nothing",
        "such a file counts as absent; replace it or delete it",
    ),
}
"""The kinds of doubt."""


def doubt_notes(doubts: Iterable[tuple[str, Doubt]]) -> Iterator[str]:
    """One note for each kind, from pairs of an input's URL and a doubt about it: how many inputs,
    the first of them, and the remedy."""
    by_kind: dict[str, list[tuple[str, Doubt]]] = {}
    for url, doubt in doubts:
        by_kind.setdefault(doubt.kind, []).append((url, doubt))
    for kind, wording in DOUBTS.items():
        if found := by_kind.get(kind):
            count, (url, first) = len(found), found[0]
            noun, predicate = ("input", wording.one) if count == 1 else ("inputs", wording.several)
            yield f"{count:,} {noun} {predicate}, first {url} ({first.detail}): {wording.remedy}"

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
    "alpha_is_data": Wording(
        "has a band 4 that GDAL calls alpha and that is taken for data (near infrared?)",
        "have a band 4 that GDAL calls alpha and that is taken for data (near infrared?)",
        "it masks nothing; --alpha band takes it for alpha",
    ),
    "alpha_is_band": Wording(
        "has an alpha band that may be data and is taken for alpha",
        "have an alpha band that may be data and is taken for alpha",
        "where it is 0 there is no data; --alpha data takes it for data, such as near infrared",
    ),
    "alpha_fed": Wording(
        "feeds a band that it calls alpha to the network",
        "feed a band that they call alpha to the network",
        "check --bands",
    ),
    "alpha_unused": Wording(
        "has an alpha band that masks nothing",
        "have an alpha band that masks nothing",
        "GDAL applies one after one or three other bands only; name the missing value with"
        " --nodata, or give the file a mask",
    ),
    "frames": Wording(
        "has more images with color tables than the first one, which is segmented",
        "have more images with color tables than the first one, which is segmented",
        "extract the others, e.g. gdal_translate -b 2 -expand rgb IN OUT",
    ),
    "negative": Wording(
        "says that 0 is white (MINISWHITE) and is inverted",
        "say that 0 is white (MINISWHITE) and are inverted",
        "if that is wrong, correct the tag: tiffset -s 262 1 FILE",
    ),
    "negative_as_stored": Wording(
        "says that 0 is white (MINISWHITE) and is read as stored",
        "say that 0 is white (MINISWHITE) and are read as stored",
        "a negative --scale inverts values",
    ),
    "scale": Wording(
        "states another scale than the one that is applied",
        "state another scale than the one that is applied",
        "--scale file applies what each file states",
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

"""A note on scenes that cover the same ground, so that sums of areas over scenes count it more than
once. Words, and which scenes are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.earth.equal_area import Grid
from pipeline.earth.overlap import overlap
from pipeline.scene import Scene


def overlap_note(scenes: Iterable[Scene]) -> Iterator[str]:
    """A note if scenes overlap: how many, the first two, and how much of the area is counted again.

    Scenes of different days are not compared: a series in time covers its ground on purpose.
    """
    by_day: dict[str | None, list[Scene]] = {}
    for scene in scenes:
        if scene.crs:
            by_day.setdefault(scene.datetime and scene.datetime[:10], []).append(scene)
    days = list(by_day.values())
    overlaps = [
        overlap([Grid(str(s.crs), s.transform, s.width, s.height) for s in day]) for day in days
    ]
    count = sum(one.count for one in overlaps)
    area = sum(one.area for one in overlaps)
    if count and area:
        again = sum(one.share * one.area for one in overlaps) / area
        at_least = "at least " if any(one.at_least for one in overlaps) else ""
        first, other = next(
            (day[one.first[0]].url, day[one.first[1]].url)
            for day, one in zip(days, overlaps, strict=True)
            if one.first
        )
        yield (
            f"the footprints of {at_least}{count:,} inputs overlap, first {first} and {other}:"
            f" {again:.0%} of the area of all inputs is ground that is counted again; leave copies"
            " of one image out, or do not sum areas over scenes"
        )

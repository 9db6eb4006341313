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
    "unplaced": Wording(
        "has no place on Earth",
        "have no place on Earth",
        "no areas and no geometry; gdal_translate -a_srs EPSG:CODE -a_ullr LEFT TOP RIGHT BOTTOM"
        " IN OUT places an image",
    ),
    "no_crs": Wording(
        "has a transform but no CRS",
        "have a transform but no CRS",
        "no areas and no geometry; gdal_translate -a_srs EPSG:CODE IN OUT sets the CRS",
    ),
    "no_transform": Wording(
        "has a CRS but no transform",
        "have a CRS but no transform",
        "no areas and no geometry; gdal_translate -a_ullr LEFT TOP RIGHT BOTTOM IN OUT sets the"
        " transform",
    ),
    "control_points": Wording(
        "is placed by control points or the like, not by a transform",
        "are placed by control points or the like, not by a transform",
        "no areas and no geometry; gdalwarp IN OUT makes a raster that has them",
    ),
    "unusable_crs": Wording(
        "has a CRS that gives no place on Earth",
        "have a CRS that gives no place on Earth",
        "no areas and no geometry; gdalwarp -t_srs EPSG:CODE IN OUT, or -a_srs if it is wrong",
    ),
    "other_body": Wording(
        "is an image of another body than the Earth",
        "are images of another body than the Earth",
        "no areas and no geometry",
    ),
    "mended": Wording(
        "is a JPEG with a fault in its header that concerns no pixel",
        "are JPEGs with a fault in their header that concerns no pixel",
        "it is mended while the file is read; other programs may refuse the file",
    ),
    "orientation": Wording(
        "asks viewers to turn or mirror it",
        "ask viewers to turn or mirror them",
        "masks have the rows and columns of the file as it is stored",
    ),
    "pages": Wording(
        "has more pages than the first one, which is segmented",
        "have more pages than the first one, which is segmented",
        "extract the others, e.g. gdal_translate GTIFF_DIR:2:IN OUT",
    ),
    "subdatasets": Wording(
        "holds subdatasets beside the bands that are segmented",
        "hold subdatasets beside the bands that are segmented",
        "gdalinfo IN lists them, gdal_translate NAME OUT extracts one",
    ),
    "images": Wording(
        "has more images than the first one, which is segmented",
        "have more images than the first one, which is segmented",
        "extract the others with the program that wrote them, or e.g. exiftool or ImageMagick",
    ),
    "storage_tiles": Wording(
        "is stored in tiles or strips that are larger than its blocks",
        "are stored in tiles or strips that are larger than their blocks",
        "each is decoded as a whole for every block that it touches;"
        " gdal_translate -co TILED=YES -co COMPRESS=DEFLATE IN OUT makes reading faster",
    ),
}
"""The kinds of doubt, in the order of their notes."""


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

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
        "has a band that GDAL calls alpha and that is taken for data, such as near infrared",
        "have a band that GDAL calls alpha and that is taken for data, such as near infrared",
        "it masks nothing; --alpha band takes it for alpha",
    ),
    "alpha_is_band": Wording(
        "has a band that GDAL calls alpha and that is taken for alpha",
        "have a band that GDAL calls alpha and that is taken for alpha",
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
    "nodata_type": Wording(
        "holds a type that cannot have the value of --nodata",
        "hold a type that cannot have the value of --nodata",
        "--nodata marks none of its pixels as missing, and what the file says of nodata is ignored",
    ),
    "scale": Wording(
        "states another scale than the one that is applied",
        "state another scale than the one that is applied",
        "--scale file applies what each file states",
    ),
    "unplaced": Wording(
        "has no place on Earth",
        "have no place on Earth",
        "no areas and no geometry; gdal_translate -a_srs EPSG:CODE -a_ullr LEFT TOP RIGHT BOTTOM"
        " IN OUT places an image",
    ),
    "no_area": Wording(
        "has a transform under which pixels have no area",
        "have a transform under which pixels have no area",
        "it counts as absent; correct it, e.g. gdal_translate -a_ullr LEFT TOP RIGHT BOTTOM IN OUT",
    ),
    "no_xml": Wording(
        "has an .aux.xml that is no XML",
        "have an .aux.xml that is no XML",
        "what GDAL takes from it is not known: replace it or delete it",
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
        "no areas and no geometry, which are of the Earth only; masks and counts are whole",
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
    "side_car": Wording(
        "has a file beside it that says nothing",
        "have files beside them that say nothing",
        "such a file counts as absent; replace it or delete it",
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

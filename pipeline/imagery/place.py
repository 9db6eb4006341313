"""The place of an image file on Earth: its CRS and transform if they give one, and what to say if
they do not.

Knows how to name a CRS, and that no pixel is larger than the Earth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rasterio.crs import CRS
from rasterio.enums import WktVersion
from rasterio.errors import CRSError

from pipeline.doubt import Doubt
from pipeline.earth.crs import OtherBodyError
from pipeline.earth.pixel_size import larger_than_earth
from pipeline.errors import one_line
from pipeline.imagery.georeference import placed
from pipeline.imagery.input_file import InputFile, header_error
from pipeline.scene import IDENTITY, Affine6
from pipeline.storage.access import Access


@dataclass(frozen=True)
class Place:
    """The place of a grid of pixels."""

    crs: str | None
    """As in Scene; None also for one that gives no place on Earth, and for one without transform:
    areas would be nonsense."""
    transform: Affine6
    """The file's own, or that of its world file; IDENTITY if there is none."""
    doubts: tuple[Doubt, ...]
    """Why there is no place, and which transforms and world files say nothing."""


def place_of(src: Any, file: InputFile, access: Access) -> Place:
    """The place of the open rasterio dataset. Raises InputError for pixels that are larger than the
    Earth, and what `placed` raises."""
    transform, doubts = placed(src, file, access)
    if transform == IDENTITY:
        return Place(None, transform, (*doubts, *_without_transform(src)))
    if not src.crs:
        return Place(None, transform, (*doubts, Doubt("no_crs", "no CRS")))
    try:
        name = _crs_name(src.crs)
        size = larger_than_earth(name, transform)
    except OtherBodyError as error:
        return Place(None, transform, (*doubts, Doubt("other_body", error.body)))
    except (ValueError, CRSError) as error:
        return Place(None, transform, (*doubts, Doubt("unusable_crs", one_line(error))))
    if size:
        raise header_error(
            file.url,
            f"its pixels are {size}; its transform is damaged or in another unit: correct it, e.g."
            " gdal_translate -a_ullr LEFT TOP RIGHT BOTTOM IN OUT",
        )
    return Place(name, transform, doubts)


def _without_transform(src: Any) -> Iterator[Doubt]:
    """The doubt about a file without a transform."""
    points = src.gcps[0]
    if points:
        yield Doubt("control_points", f"{len(points)} ground control points")
    elif src.tags(ns="RPC"):
        yield Doubt("control_points", "rational polynomial coefficients (-rpc)")
    elif src.tags(ns="GEOLOCATION"):
        yield Doubt("control_points", "a geolocation array (-geoloc)")
    elif src.crs:
        yield Doubt("no_transform", "no transform")
    else:
        yield Doubt("unplaced", "no CRS and no transform")


def _crs_name(crs: CRS) -> str:
    """The CRS as CRS.from_user_input takes it: an authority code if it says exactly the same, else
    WKT."""
    code = crs.to_authority(confidence_threshold=100)
    if code is not None and CRS.from_authority(*code) == crs:
        return ":".join(code)
    return str(crs.to_wkt(version=WktVersion.WKT2_2019))

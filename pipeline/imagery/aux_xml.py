"""What an `.aux.xml` side-car (GDAL's "PAM") decides about an image.

QGIS and `gdalinfo -stats` leave statistics in such a file beside every image that is looked at.
Only what decides pixels, validity, place or time is identity: of the elements that GDAL 3.10's
gdalpamdataset.cpp and gdalpamrasterband.cpp know, those named here.
"""

from __future__ import annotations

import hashlib
from xml.etree.ElementTree import ParseError, XMLParser

MAX_BYTES = 4 << 20
"""A larger file is identified by its size and time, as an image is: GDAL writes some kB."""
_DECISIVE = frozenset(
    {
        *("SRS", "GeoTransform", "GCPList"),
        *("NoDataValue", "Offset", "Scale", "ColorInterp", "ColorTable"),
    }
)
"""Elements that decide the place of an image or the meaning of its values."""
_DECISIVE_DOMAINS = frozenset({"IMAGE_STRUCTURE", "IMAGERY", "GEOLOCATION", "RPC", "xml:ESRI"})
"""Domains of metadata that do: bits per value and signs, the time, the georeference."""
_DECISIVE_KEYS = frozenset(
    {
        *("NODATA_VALUES", "AREA_OR_POINT", "ACQUISITIONDATETIME"),
        *("EXIF_DateTimeOriginal", "TIFFTAG_DATETIME"),
    }
)
"""Keys that do in any other domain."""
_NUMBERED = ("PAMRasterBand", "Subdataset")
"""Elements that say what those inside them are about."""


def decisive_version(data: bytes) -> str | None:
    """The version of an `.aux.xml` with these bytes: a hash of what it decides, None if it decides
    nothing. Raises ValueError for bytes that are no XML."""
    parser = XMLParser(target=_Decisive())
    try:
        parser.feed(data)
        text = str(parser.close())
    except (ParseError, LookupError) as error:  # the latter for an encoding that is none
        raise ValueError(f"no XML ({error})") from error
    return _hash(text.encode()) if text else None


def whole_version(data: bytes) -> str:
    """The version of an `.aux.xml` that cannot be parsed: a hash of all its bytes."""
    return _hash(data)


def _hash(data: bytes) -> str:
    return f"aux-{hashlib.sha256(data).hexdigest()[:16]}"


class _Decisive:
    """Collects the decisive elements of a file as text, and drops all else while it is parsed.

    Indents, the order of attributes and the elements in between leave no trace.
    """

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._text = ""
        """The text since the last tag."""
        self._owners: list[str] = []
        """The numbered elements around the present one."""
        self._domains: list[bool] = []
        """For each open `Metadata`, whether its domain is decisive."""
        self._depth = 0
        """Open elements of the decisive one, itself included; 0 outside."""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._keep_text()
        if tag in _NUMBERED:
            self._owners.append(_start(tag, attributes))
        if tag == "Metadata":
            self._domains.append(attributes.get("domain", "") in _DECISIVE_DOMAINS)
        if self._depth:
            self._depth += 1
        elif self._is_decisive(tag, attributes):
            self._depth = 1
            self._kept += self._owners
            if tag == "MDI":
                self._kept.append("<Metadata>")
        if self._depth:
            self._kept.append(_start(tag, attributes))

    def _is_decisive(self, tag: str, attributes: dict[str, str]) -> bool:
        if tag == "Metadata":
            return self._domains[-1]
        return tag in _DECISIVE or (tag == "MDI" and attributes.get("key") in _DECISIVE_KEYS)

    def data(self, text: str) -> None:
        if self._depth:
            self._text += text

    def _keep_text(self) -> None:
        if self._text:
            self._kept.append(self._text.strip())
            self._text = ""

    def end(self, tag: str) -> None:
        self._keep_text()
        if self._depth:
            self._depth -= 1
            self._kept.append(f"</{tag}>")
        if tag == "Metadata" and self._domains:
            self._domains.pop()
        if tag in _NUMBERED:
            self._owners.pop()

    def close(self) -> str:
        return "".join(self._kept)


def _start(tag: str, attributes: dict[str, str]) -> str:
    return f"<{tag} {sorted(attributes.items())}>"

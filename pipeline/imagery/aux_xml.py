"""What an `.aux.xml` side-car (GDAL's "PAM") decides about an image.

QGIS and `gdalinfo -stats` leave statistics in such a file beside every image that is looked at, and
GDAL adds what it knows of the image itself: its compression, its EXIF. Only what decides pixels,
validity or place is identity: of the elements that GDAL 3.10's gdalpamdataset.cpp and
gdalpamrasterband.cpp know, those named here.
"""

from __future__ import annotations

import hashlib
from xml.etree.ElementTree import ParseError, XMLParser

MAX_BYTES = 4 << 20
"""A larger file is identified by its size and time, as an image is: GDAL writes some kB."""
# Names in lower case: to GDAL, case makes no difference.
_DECISIVE = frozenset(
    {
        *("srs", "geotransform", "gcplist"),
        *("nodatavalue", "offset", "scale", "colorinterp", "colortable"),
    }
)
"""Elements that decide the place of an image or the meaning of its values."""
_DECISIVE_DOMAIN = "xml:esri"
"""The domain of metadata that does: ArcGIS's georeference, from which GDAL takes the other two."""
_DECISIVE_KEY = "nodata_values"
"""The key that does in the domain without a name: nodata for all bands together."""
_NUMBERED = ("pamrasterband", "subdataset")
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
        self._text: list[str] = []
        """The text since the last tag, in pieces."""
        self._owners: list[str] = []
        """The numbered elements around the present one."""
        self._domain = ""
        """The domain of the last `Metadata`: there is none inside another that matters."""
        self._depth = 0
        """Open elements of the decisive one, itself included; 0 outside."""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._keep_text()
        name = tag.casefold()
        if name in _NUMBERED:
            self._owners.append(_start(tag, attributes))
        if name == "metadata":
            self._domain = _folded(attributes, "domain")
        if self._depth:
            self._depth += 1
        elif self._is_decisive(name, attributes):
            self._depth = 1
            self._kept += self._owners
        if self._depth:
            self._kept.append(_start(tag, attributes))

    def _is_decisive(self, name: str, attributes: dict[str, str]) -> bool:
        if name == "metadata":
            return self._domain == _DECISIVE_DOMAIN
        if name == "mdi":
            return not self._domain and _folded(attributes, "key") == _DECISIVE_KEY
        return name in _DECISIVE

    def data(self, text: str) -> None:
        if self._depth:
            self._text.append(text)

    def _keep_text(self) -> None:
        self._kept.append("".join(self._text).strip())
        self._text.clear()

    def end(self, tag: str) -> None:
        self._keep_text()
        if self._depth:
            self._depth -= 1
            self._kept.append(f"</{tag}>")
        if tag.casefold() in _NUMBERED:
            self._owners.pop()

    def close(self) -> str:
        return "".join(self._kept)


def _folded(attributes: dict[str, str], name: str) -> str:
    """The value of the first attribute of this name, both without case."""
    values = (value for key, value in attributes.items() if key.casefold() == name)
    return next(values, "").casefold()


def _start(tag: str, attributes: dict[str, str]) -> str:
    return f"<{tag} {sorted(attributes.items())}>"

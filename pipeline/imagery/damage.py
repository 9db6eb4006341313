"""GDAL's warnings, and whether they say that pixels may be wrong.

libtiff carries on without a tag that it cannot read. Where the tag is one of those that pixels are
made from, they come out wrong, or as 0 where it takes storage tiles for missing ones, and nothing
but the warning tells. What concerns no pixel, such as an odd resolution or a page number of one
part, is no damage. Found by giving every tag of 17 kinds of files odd counts, types and values and
comparing the pixels (docs/log.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pipeline.errors import one_line

# Inside a TIFF, libtiff turns the damage that GDAL_ERROR_ON_LIBJPEG_WARNING is for into a mere
# warning, as it does with every damage of faxes, and with PackBits that decode to too much.
_DECODERS = re.compile(
    r"corrupt jpeg|premature end|improper jpeg strip/tile size|:fax\w*decode|packbitsdecode:",
    re.IGNORECASE,
)
_UNREADABLE = re.compile(
    r"(?:incorrect count for(?: field)?|incorrect value for|incompatible type for|null count for"
    r"|io error during reading of|out of memory reading of|sanity check on size of"
    r'|different values per sample for) "([^"]+)"'
    r"|invalid data type for tag (\w+)"
    r"|(_TIFFPartialReadStripArray):",
    re.IGNORECASE,
)
_INDEX = frozenset(
    [
        "StripOffsets",
        "StripByteCounts",
        "TileOffsets",
        "TileByteCounts",
        "_TIFFPartialReadStripArray",
    ]
)
_PIXELS = _INDEX.union(
    [
        "ImageWidth",
        "ImageLength",
        "ImageDepth",
        "TileWidth",
        "TileLength",
        "TileDepth",
        "RowsPerStrip",
        "PlanarConfiguration",
        "SamplesPerPixel",
        "BitsPerSample",
        "SampleFormat",
        "DataType",
        "Matteing",
        "ExtraSamples",
        "FillOrder",
        "PhotometricInterpretation",
        "Compression",
        "Predictor",
        "LercParameters",
        "JPEGTables",
        "JpegProc",
        "JpegInterchangeFormat",
        "JpegInterchangeFormatLength",
        "JpegRestartInterval",
        "JpegQTables",
        "JpegDcTables",
        "JpegAcTables",
        "GDALNoDataValue",
        "GDALMetadata",
    ]
)
"""libtiff's names of the tags that pixels, their validity and the roles of bands are made from."""
_COLORS = {
    "YCbCr": ("YCbCrCoefficients", "YCbCrSubsampling", "ReferenceBlackWhite"),
    "CIELAB": ("WhitePoint",),
    "CMYK": ("InkSet",),
}
"""Those that red, green and blue are computed from, for each color space that libtiff converts."""
_FAX = frozenset(("T4Options", "T6Options", "Group3Options", "Group4Options"))


def damage(src: Any, warnings: Sequence[str]) -> str | None:
    """The first of GDAL's warnings about the open rasterio dataset that says that a pixel may be
    wrong, in one line; None: none does."""
    for warning in warnings:
        if src.driver == "JP2OpenJPEG" and ".msk" not in warning:
            continue  # its place is in a TIFF inside the file, and its pixels in none
        if _DECODERS.search(warning) or any(_is_of_pixels(src, tag) for tag in _tags(warning)):
            text = one_line(warning.removeprefix("CPLE_AppDefined:"), "")
            if any("is greater than filesize" in other for other in warnings):
                # A count that no file has, which libtiff calls a lack of memory.
                text = text.replace("Out of memory reading", "Unable to read all")
            return text
    return None


def is_index_damage(warning: str) -> bool:
    """Whether GDAL's warning says that the index of storage tiles cannot be read."""
    return not _INDEX.isdisjoint(_tags(warning))


def _tags(warning: str) -> list[str]:
    """The tags that the warning says were not read."""
    return [name for groups in _UNREADABLE.findall(warning) for name in groups if name]


def _is_of_pixels(src: Any, tag: str) -> bool:
    if tag in _PIXELS:
        return True
    if tag == "ColorMap":  # only a file of indices, and at most an alpha band, has one
        return bool(src.count <= 2)
    if tag == "SubfileType":  # what should be a mask would be taken for another page
        return bool(src.subdatasets)
    structure = src.tags(ns="IMAGE_STRUCTURE")
    compression = structure.get("COMPRESSION", "")
    if tag in _FAX:
        return bool(compression.startswith("CCITT"))
    converted = _COLORS.get(structure.get("SOURCE_COLOR_SPACE"), ())
    return tag in converted and compression != "YCbCr JPEG"  # whose tiles say it themselves

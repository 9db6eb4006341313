"""What else an image file holds beside the image that is segmented: pages, subdatasets, further
images, an orientation. All of it is left out, and said.

Reads what GDAL has read already, and a few bytes of JPEG and JPEG 2000 files, whose further images
GDAL does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.doubt import Doubt
from pipeline.imagery.dataset import read_bytes
from pipeline.imagery.jpeg_header import JpegHeader, read_jpeg_header
from pipeline.storage.access import Access
from pipeline.storage.range_file import RangeFile

_UPRIGHT = ("", "1")
_CODESTREAM = b"jp2c"


def jpeg_header_of(src: Any, url: str, access: Access) -> JpegHeader:
    """The header of a JPEG file; an empty one for other formats."""
    if src.driver != "JPEG":
        return JpegHeader()
    return read_bytes(url, access, read_jpeg_header)


def contents_doubts(src: Any, url: str, jpeg: JpegHeader, access: Access) -> Iterator[Doubt]:
    """What is left out of the open rasterio dataset, and what is corrected in its header."""
    if jpeg.faults:
        yield Doubt("mended", ", ".join(jpeg.faults))
    orientation = src.tags().get("EXIF_Orientation", "")
    if orientation not in _UPRIGHT:
        yield Doubt("orientation", f"EXIF orientation {orientation}")
    if subdatasets := len(src.subdatasets):
        if src.driver == "GTiff":
            yield Doubt("pages", _count(subdatasets - 1, "more page"))
        else:
            yield Doubt("subdatasets", _count(subdatasets, "subdataset"))
    more = jpeg.more_images
    if src.driver == "JP2OpenJPEG":
        more = max(0, read_bytes(url, access, _codestreams) - 1)
    if more:
        yield Doubt("images", _count(more, "more image"))


def _codestreams(file: RangeFile) -> int:
    """The number of codestreams in a JPEG 2000 file (ISO 15444-1, annex I)."""
    at, count = 0, 0
    while True:
        file.seek(at)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:], "big")
        count += kind == _CODESTREAM
        if size < 8:  # up to the end of the file
            return count
        at += size


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

"""Windows bitmaps (BMP) of which GDAL 3.10 gives other pixels than they hold, without a word.

It reads the color tables of OS/2 2 with three bytes a color where they have four, believes an
offset of pixels that points into the color table, turns compressed rows over that are stored from
the top, and gives whatever is in memory for pixels that run lengths pass over. Knows bytes; no
dataset. (Header: Microsoft's BITMAPFILEHEADER and BITMAPINFOHEADER; run lengths: BI_RLE8, BI_RLE4.)
"""

from __future__ import annotations

import struct

from pipeline.storage.range_file import RangeFile

_HEADER = struct.Struct("<2sI4xIIiiHHIIiiI")
"""Signature, size, offset of pixels, size of what follows, width, height, planes, bits,
compression, size of the pixels, resolutions, colors."""
_FILE_HEADER_BYTES = 14
_OS2_2_BYTES = 64
_RLE8, _RLE4 = 1, 2
_JUMP = 2
"""The first code that is neither the end of a row nor that of the bitmap."""


def bitmap_fault(file: RangeFile) -> str | None:
    """What is wrong with a bitmap's pixels as GDAL reads them; None if nothing is, or if the file
    is no bitmap with a color table and a header of 40 bytes or more."""
    data = file.read(_HEADER.size)
    if len(data) < _HEADER.size:
        return None
    _, _, start, size, width, height, _, bits, compression, _, _, _, colors = _HEADER.unpack(data)
    if bits > 8 or size < _HEADER.size - _FILE_HEADER_BYTES:
        return None
    fault = None
    if size == _OS2_2_BYTES:
        fault = "is a bitmap of OS/2 2, whose color table GDAL misreads"
    elif start < _FILE_HEADER_BYTES + size + 4 * (colors or 1 << bits):
        fault = "says that its pixels start inside its color table"
    elif compression in (_RLE8, _RLE4):
        file.seek(start)
        if height < 0:
            fault = "is a bitmap with run lengths from top to bottom, which GDAL turns over"
        elif not _fills(file.read(), width, height, compression):
            fault = "is a bitmap whose run lengths pass over pixels, which GDAL leaves to chance"
    return fault


def _fills(data: bytes, width: int, height: int, compression: int) -> bool:
    """Whether run lengths give every pixel of every row a value."""
    col = row = at = 0
    while at + 1 < len(data) and row < height:
        count, code = data[at], data[at + 1]
        at += 2
        if count:
            col += count
        elif code > _JUMP:
            col += code
            stored = (code + 1) // 2 if compression == _RLE4 else code
            at += stored + stored % 2
        elif code == _JUMP or col != width:
            return False
        else:
            col, row = 0, row + 1
            if code:  # the end of the bitmap
                break
    return row == height

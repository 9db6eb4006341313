"""Whether a file can hold what its header claims: a damaged one may claim a billion pixels a side.

Arithmetic over the header and the file's size. Sound files that are small for their pixels, such as
sparse mosaics and single colours, pass: what is refused is what no encoder can have written.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MOST_FROM_A_BYTE = 2600
"""Bytes that a byte of data may stand for, in the codecs that have such a bound: 2,558 in LZW (12
bits for 3,837 bytes), 1,032 in deflate, 512 in JPEG, 64 in PackBits."""
_BOUNDED_FORMATS = ("PNG", "JPEG")
_BOUNDED_IN_TIFF = (None, "PACKBITS", "LZW", "DEFLATE", "JPEG", "YCbCr JPEG")
"""GDAL's names; None is uncompressed. ZSTD, LZMA and LERC hold one colour in next to nothing."""


def doubt(src: Any, dtype: str, size_bytes: int) -> str | None:
    """Why the opened rasterio dataset, in a file of this size, cannot be what it says; None where
    it can. Formats other than TIFF, JPEG 2000, PNG and JPEG are believed: a VRT's pixels are
    elsewhere."""
    tags = src.tags(1, ns="IMAGE_STRUCTURE")
    bits = int(tags.get("NBITS", 8 * np.dtype(dtype).itemsize))
    claimed = src.width * src.height * src.count * bits // 8
    if claimed <= MOST_FROM_A_BYTE * size_bytes:
        return None
    claim = f"claims {src.width}x{src.height} px in {src.count} bands, but the file's"
    has = f"{size_bytes:,} bytes"
    if src.driver in _BOUNDED_FORMATS:
        return f"{claim} {has} cannot hold them"
    if src.driver not in ("GTiff", "JP2OpenJPEG"):
        return None
    height, width = src.block_shapes[0]
    planes = src.count if src.interleaving and src.interleaving.value == "BAND" else 1
    tiles = math.ceil(src.width / width) * math.ceil(src.height / height) * planes
    if tiles > size_bytes:  # each has an entry in an index, or a header of its own: some bytes
        return f"{claim} {has} cannot even index the {tiles:,} storage tiles that would be"
    if src.driver == "GTiff":
        tile = width * height * (src.count // planes) * bits // 8
        stored = src.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1)  # None: a sparse file
        codec = src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
        if stored and codec in _BOUNDED_IN_TIFF and tile > MOST_FROM_A_BYTE * int(stored):
            return (
                f"{claim} first storage tile has {int(stored):,} bytes for {tile:,} bytes of them"
            )
    return None

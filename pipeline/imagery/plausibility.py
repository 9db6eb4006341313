"""Whether a file can hold what its header claims: a damaged one may claim a billion pixels a side.

Arithmetic on the header and the file's size. Sound files that are small for their pixels, such as
sparse mosaics and single colors, pass: what is refused is what no encoder can have written.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.imagery.damage import is_index_damage

MAX_EXPANSION = 2600
"""Decoded bytes per stored byte, at most, in the codecs that have such a bound: 2,558 in LZW (12
bits for 3,837 bytes), 1,032 in deflate, 512 in JPEG, 64 in PackBits."""
_BOUNDED_FORMATS = ("PNG", "JPEG")
_BOUNDED_IN_TIFF = (None, "PACKBITS", "LZW", "DEFLATE", "JPEG", "YCbCr JPEG")
"""GDAL's names; None is uncompressed. ZSTD, LZMA and LERC hold one color in next to nothing."""


def implausibility(src: Any, warnings: list[str], dtype: str, size_bytes: int | None) -> str | None:
    """Why the open rasterio dataset, in a file of this size, cannot be what its header claims.

    None if it can, and for other formats than TIFF, JPEG 2000, PNG and JPEG: a VRT's pixels are in
    other files. warnings: the list that receives GDAL's warnings about the dataset.
    """
    first_tile_bytes = 0
    if src.driver == "GTiff":
        # Makes GDAL read the index of storage tiles; the item is None if the tile is missing.
        first_tile_bytes = int(src.get_tag_item("BLOCK_SIZE_0_0", "TIFF", bidx=1) or 0)
        # GDAL carries on without the index, and takes every tile for a missing one: pixels of 0.
        if any(map(is_index_damage, warnings)):
            return (
                f"claims {src.width}x{src.height} px, which its index of storage tiles is not for"
            )
    if size_bytes is None:
        return None
    return _excess(src, dtype, size_bytes, first_tile_bytes)


def _excess(src: Any, dtype: str, size_bytes: int, first_tile_bytes: int) -> str | None:
    """The claim that the file is too small for, or None."""
    bits = int(src.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8 * np.dtype(dtype).itemsize))
    if src.width * src.height * src.count * bits <= 8 * MAX_EXPANSION * size_bytes:
        return None
    claim = f"claims {src.width}x{src.height} px in {src.count} bands, but the file's"
    if src.driver in _BOUNDED_FORMATS:
        return f"{claim} {size_bytes:,} bytes cannot hold them"
    if src.driver not in ("GTiff", "JP2OpenJPEG"):
        return None
    height, width = src.block_shapes[0]
    planes = src.count if src.interleaving and src.interleaving.value == "BAND" else 1
    tiles = math.ceil(src.width / width) * math.ceil(src.height / height) * planes
    if tiles > size_bytes:  # each has an entry in an index, or a header of its own: some bytes
        return f"{claim} {size_bytes:,} bytes cannot even index the {tiles:,} storage tiles of them"
    tile_bytes = width * height * (src.count // planes) * bits // 8
    codec = src.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
    bounded = first_tile_bytes and codec in _BOUNDED_IN_TIFF
    if bounded and tile_bytes > MAX_EXPANSION * first_tile_bytes:
        return f"{claim} first storage tile has {first_tile_bytes:,} bytes for {tile_bytes:,}"
    return None

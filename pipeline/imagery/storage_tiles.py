"""How the pixels of an image file are divided into what is decoded at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import Interleaving


def storage_tile(src: Any, dtype: str) -> tuple[tuple[int, int], int]:
    """Height and width of the storage tiles or strips of the open rasterio dataset, and the size of
    the largest one, decoded, in bytes; zeros for formats other than TIFF.

    libtiff decodes all bands of a tile that holds them interleaved, however few are read. A large
    compressed strip that is the whole image is decoded row by row, but from its start.
    """
    if src.driver != "GTiff":
        return (0, 0), 0
    height, width = src.block_shapes[0]
    bands = 1 if src.interleaving == Interleaving.band else src.count
    decoded_bytes = height * width * bands * np.dtype(dtype).itemsize
    if height == 1 and src.height > 1 and _is_one_strip(src):
        height = src.height
    return (height, width), decoded_bytes


def _is_one_strip(src: Any) -> bool:
    """Whether an image that GDAL reads row by row has its first row in the file, but no second."""
    first, second = (
        src.get_tag_item(f"BLOCK_OFFSET_0_{row}", "TIFF", bidx=1) is not None for row in (0, 1)
    )
    return first and not second


def is_striped(src: Any) -> bool:
    """Whether a part of a row costs a whole row: strips, and formats decoded as a whole."""
    if src.driver == "JP2OpenJPEG":
        return False
    return bool(src.block_shapes[0][1] >= src.width)

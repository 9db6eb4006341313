"""The transform of an image file: its own, or that of a world file."""

from __future__ import annotations

import math
from typing import Any

from pipeline.imagery.input_file import InputFile, header_error
from pipeline.imagery.opener import read_beside
from pipeline.scene import IDENTITY, Affine6
from pipeline.storage.access import Access


def transform_of(src: Any, url: str) -> Affine6:
    """The file's own transform, IDENTITY if it has none. Raises InputError for one that maps pixels
    to no area."""
    a, b, c, d, e, f = (float(value) for value in tuple(src.transform)[:6])
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e - b * d == 0:
        raise header_error(
            url,
            f"its transform ({a}, {b}, {c}, {d}, {e}, {f}) maps pixels to no area; correct it, e.g."
            " gdal_translate -a_ullr LEFT TOP RIGHT BOTTOM IN OUT",
        )
    return (a, b, c, d, e, f)


def world_file_transform(file: InputFile, access: Access) -> Affine6:
    """The transform in the image's world file, which GDAL cannot read through Python; IDENTITY if
    there is none. Raises InputError for a damaged world file.

    It has six lines: x then y of the column step, of the row step, and of the center of the first
    pixel.
    """
    names = [name for name in file.sidecars if name.lower().endswith(("w", ".wld"))]
    if not names:
        return IDENTITY
    try:
        a, d, b, e, x, y = (float(line) for line in read_beside(file.url, names[0], access).split())
    except ValueError as error:
        raise header_error(file.url, f"its world file {names[0]} holds no six numbers") from error
    return (a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)

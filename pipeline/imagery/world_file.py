"""The transform in a world file.

GDAL reads world files only on local disk, and without being asked: where that matters, an image is
opened so that GDAL does not see them. What they say is decided here, for disks and stores alike.
"""

from __future__ import annotations

import math
import re

from pipeline.scene import Affine6

MAX_BYTES = 1 << 16
"""A world file has some 100 bytes: no more than this is read of one."""
_NUMBER = re.compile(r"[+-]?(\d++[.,]?+\d*+|[.,]\d++)([eE][+-]?\d++)?+(?![.,]?\d)")
"""A number with a decimal point or comma, but not both: 1,000.5 may be a thousand, or one."""


def parse_world_file(data: bytes) -> Affine6 | None:
    """The transform that a world file of these bytes gives, None if it has no six numbers that map
    pixels to an area.

    It has six lines: x then y of the column step, of the row step, and of the center of the first
    pixel. As in GDAL, a number may have a decimal comma, what follows it in its line counts for
    nothing, and neither do empty lines and more than six. Besides, six numbers in a line are read,
    and a byte order mark is passed over.
    """
    text = data.decode(
        "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace"
    )
    lines = [line for line in text.splitlines() if line.strip()]
    fields = lines if len(lines) >= 6 else text.split()
    numbers = [_number(field) for field in fields[:6]]
    if len(numbers) < 6:
        return None
    a, d, b, e, x, y = numbers
    transform = (a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)
    return transform if has_area(transform) else None


def has_area(transform: Affine6) -> bool:
    """Whether a pixel has an area under the transform, which a damaged one may not give it, or give
    one that vanishes beside its coordinates."""
    if not all(map(math.isfinite, transform)):
        return False
    a, b, c, d, e, f = transform
    a, b, d, e = (a + c) - c, (b + c) - c, (d + f) - f, (e + f) - f
    return a * e - b * d != 0


def _number(field: str) -> float:
    """The number at the start of a line; NaN if there is none."""
    match = _NUMBER.match(field.strip())
    return float(match[0].rstrip(",").replace(",", ".")) if match else math.nan

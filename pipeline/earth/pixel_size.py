"""Whether pixels are larger than the Earth. Knows grids and CRS; no scene, file or class."""

from __future__ import annotations

from pipeline.earth.crs import parse_crs
from pipeline.scene import Affine6

ROUNDING = 1.01
"""A pixel this many times as large as the Earth may be the whole of it, rounded."""


def larger_than_earth(crs: str, transform: Affine6) -> str | None:
    """The size of a pixel and of the Earth in the unit of the CRS, if the pixel is larger in either
    direction; None if it is not. Raises ValueError if the CRS has no place on Earth."""
    a, b, _, d, e, _ = transform
    pixel, world = (abs(a) + abs(b), abs(d) + abs(e)), parse_crs(crs).world
    if all(size <= ROUNDING * limit for size, limit in zip(pixel, world, strict=True)):
        return None
    return f"{_format(pixel)}, more than the {_format(world)} of the Earth, in the unit of its CRS"


def _format(size: tuple[float, float]) -> str:
    return " x ".join(f"{value:.15g}" if value < 1e6 else f"{value:.3g}" for value in size)

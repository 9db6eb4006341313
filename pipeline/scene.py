"""The nouns of the flow: Scene, Rect, Block, Unit. Knows no library and no file.

With slots where a plan holds hundreds of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

Affine6 = tuple[float, float, float, float, float, float]
IDENTITY: Affine6 = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
RASTER = "raster"
"""The source of single image files."""


@dataclass(frozen=True, order=True, slots=True)
class Rect:
    """A pixel rectangle, in the words of rasterio's Window."""

    col_off: int
    row_off: int
    width: int
    height: int

    @property
    def col_end(self) -> int:
        return self.col_off + self.width

    @property
    def row_end(self) -> int:
        return self.row_off + self.height

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.col_off},{self.row_off} {self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Scene:
    """One raster on one pixel grid, as its header describes it."""

    scene_id: str
    """The path relative to its INPUT."""
    url: str
    version: str
    """Identity of the bytes, side-cars included: ETags, or sizes and modification times."""
    sidecars: tuple[str, ...]
    """Files beside it that say more of it: a mask, a place."""
    width: int
    height: int
    bands: tuple[int, ...]
    """The bands that feed the network, 1-based, in the order of its channels."""
    dtype: str
    """numpy's name of the stored type."""
    nodata: float | None
    """--nodata, which overrides what the file says; None: the file's own mask holds."""
    crs: str | None
    """What CRS.from_user_input takes: an authority code on exact match, else WKT."""
    transform: Affine6
    """a to f of rasterio's Affine; the identity where the file has none."""
    datetime: str | None
    striped: bool
    """No random access by column (strips, PNG, JPEG): blocks are full-width bands."""
    alpha: tuple[int, ...] = ()
    """Those of the bands that the file itself calls alpha."""
    source: str = RASTER
    """The source that reads it: a name in `pipeline.imagery.source.SOURCES`. Plans written before
    there were several sources lack it, and hold image files only."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def rect(self) -> Rect:
        return Rect(0, 0, self.width, self.height)


def tile_transform(transform: Affine6, col_off: int, row_off: int) -> Affine6:
    """The transform of the grid whose origin is pixel (col_off, row_off) of the given one."""
    a, b, c, d, e, f = transform
    return (a, b, a * col_off + b * row_off + c, d, e, d * col_off + e * row_off + f)

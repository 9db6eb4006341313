"""A scene, and a rectangle of its pixels. Knows no library and no file.

The classes have slots, because a plan holds hundreds of thousands of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.doubt import Doubt

Affine6 = tuple[float, float, float, float, float, float]
"""a to f of rasterio's Affine: x = a * col + b * row + c, y = d * col + e * row + f."""
IDENTITY: Affine6 = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
RASTER = "raster"
"""The source of single image files."""


@dataclass(frozen=True, order=True, slots=True)
class Rect:
    """A pixel rectangle of a scene, with the names of rasterio's Window."""

    col_off: int
    """The first column, counted from 0 at the left edge of the scene."""
    row_off: int
    """The first row, counted from 0 at the top."""
    width: int
    """The number of columns."""
    height: int
    """The number of rows."""

    @property
    def col_end(self) -> int:
        """The column after the last one."""
        return self.col_off + self.width

    @property
    def row_end(self) -> int:
        """The row after the last one."""
        return self.row_off + self.height

    @property
    def pixels(self) -> int:
        return self.width * self.height

    def __str__(self) -> str:
        """`512,0 1024x512`: col_off, row_off, width, height."""
        return f"{self.col_off},{self.row_off} {self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Scene:
    """One raster on one pixel grid, as its header describes it."""

    scene_id: str
    """The path relative to its INPUT; unique in the archive."""
    url: str
    """The file: an absolute local path, or a URL."""
    version: str
    """Identity of the bytes, side-cars included: ETags, or sizes and modification times."""
    sidecars: tuple[str, ...]
    """Names of the files beside it that complete it: a mask, a georeference."""
    width: int
    """The number of pixel columns."""
    height: int
    """The number of pixel rows."""
    bands: tuple[int, ...]
    """The bands that feed the network, 1-based, in the order of its channels; with a color table
    those of the expanded image: red, green, blue, alpha."""
    dtype: str
    """numpy's name for the stored type; `values_dtype` is that of the pixels read."""
    nodata: float | None
    """--nodata, which overrides the file's own nodata value; None: the file's own mask applies."""
    crs: str | None
    """As CRS.from_user_input takes it: an authority code on exact match, else WKT; None: the file
    has none, or none that with its transform gives a place on Earth."""
    transform: Affine6
    """The way from pixels to coordinates of the CRS, of the file or its world file; the identity if
    neither has one."""
    datetime: str | None
    """When the image was taken, else when the file was written, as the file says; None: it says
    neither."""
    striped: bool
    """No random access by column (strips, PNG, JPEG): blocks are full-width bands."""
    source: str = RASTER
    """The source that reads it: a name in `pipeline.imagery.source.SOURCES`. Plans written before
    there were several sources lack it, and hold image files only."""
    palette: bool = False
    """Whether the stored values are indices into a color table, which is applied when reading."""
    negative: bool = False
    """Whether the largest stored value is black (TIFF's MINISWHITE): values are inverted."""
    bits: int | None = None
    """The number of bits that a stored value has if its type could hold more; fewer than 8 are
    stretched to 0 to 255. None: as many as its type has, or `scales` apply."""
    scales: tuple[float, ...] = ()
    """The file's own scale of each channel, applied when reading (--scale file); empty: none is."""
    offsets: tuple[float, ...] = ()
    """The file's own offset of each channel, added after `scales`."""
    alpha_is_data: bool = False
    """Whether a band that GDAL calls alpha is data (near infrared), so that it masks nothing."""
    storage_bytes: int = 0
    """The size of the largest storage tile or strip, decoded; 0: not known (other sources)."""
    storage_px: tuple[int, int] = (0, 0)
    """Height and width of the storage tiles or strips; (0, 0): not known."""
    mended: bool = False
    """Whether harmless faults in the header of a JPEG are mended when reading."""
    doubts: tuple[Doubt, ...] = ()
    """What a user should look at."""

    @property
    def values_dtype(self) -> str:
        """numpy's name for the type of the pixels that are read."""
        if self.scales:
            return "float32"
        return "uint8" if self.palette else self.dtype

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def rect(self) -> Rect:
        return Rect(0, 0, self.width, self.height)


def tile_transform(transform: Affine6, col_off: int, row_off: int) -> Affine6:
    """The transform of the grid that starts at pixel (col_off, row_off) of `transform`'s grid."""
    a, b, c, d, e, f = transform
    return (a, b, a * col_off + b * row_off + c, d, e, d * col_off + e * row_off + f)

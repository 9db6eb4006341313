"""What rasterio, and Pillow where it can, say of an image file: pixels and which of them are valid.

Color tables are applied, fewer than 8 bits stretched and negatives inverted, here a second time:
takes nothing from pipeline.

Legend: C bands or colors, H rows, W columns.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

_ORIENTATION = 274
"""The tag that says how an image is to be turned or mirrored."""
_PILLOW_PX = 16_000_000
"""The largest image that Pillow decodes, always as a whole."""


@dataclass(frozen=True)
class Header:
    """What an image file says of itself, as far as its pixels depend on it."""

    driver: str
    compression: str
    """`none` if there is none or GDAL does not say."""
    width: int
    height: int
    dtypes: tuple[str, ...]
    """numpy's name of the type of each band."""
    color_bands: tuple[int, ...]
    """The bands that GDAL does not call alpha, 1-based."""
    bits: tuple[int, ...]
    """Bits of a value that are used, for each band."""
    table: np.ndarray | None
    """uint8, a row of red, green, blue and alpha for each index; None: values are no indices."""
    negative: bool
    """Whether 0 is white."""

    @classmethod
    def of(cls, src: Any) -> Header:
        """The header of an open dataset."""
        structure = src.tags(ns="IMAGE_STRUCTURE")
        colors = enumerate(src.colorinterp, start=1)
        color_bands = tuple(band for band, color in colors if color != ColorInterp.alpha)
        negative = structure.get("MINISWHITE") == "YES"
        return cls(
            driver=src.driver,
            compression=structure.get("COMPRESSION", "none"),
            width=src.width,
            height=src.height,
            dtypes=tuple(src.dtypes),
            color_bands=color_bands,
            bits=tuple(_bits(src, band) for band in range(1, src.count + 1)),
            table=_color_table(src, color_bands, negative),
            negative=negative,
        )

    @property
    def channels(self) -> int:
        """Three if there are three colors, else one."""
        return 3 if self.table is not None or len(self.color_bands) >= 3 else 1

    @property
    def is_plain(self) -> bool:
        """Whether values are what is stored."""
        few = any(d == "uint8" and b < 8 for d, b in zip(self.dtypes, self.bits, strict=True))
        return self.table is None and not self.negative and not few


def read(
    src: Any, header: Header, bands: tuple[int, ...], window: Window, *, alpha_is_data: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The values of the bands, CHW, or of these components of the color table; and bool HW, True
    where at least one band is valid.

    alpha_is_data: a band that GDAL calls alpha masks nothing.
    """
    if header.table is not None:
        band = header.color_bands[0]
        index_HW = src.read(band, window=window)
        valid_HW = _band_valid(src, band, window, alpha_is_data)
        valid_HW &= (index_HW >= 0) & (index_HW < len(header.table))
        rgba_HWC = header.table[np.clip(index_HW, 0, len(header.table) - 1)]
        valid_HW &= rgba_HWC[..., 3] != 0
        return np.stack([rgba_HWC[..., component - 1] for component in bands]), valid_HW
    values_CHW = src.read(bands, window=window)
    valid_CHW = np.stack([_band_valid(src, band, window, alpha_is_data) for band in bands])
    if values_CHW.dtype.kind == "f":
        valid_CHW &= np.isfinite(values_CHW)
    valid_HW = np.asarray(valid_CHW.any(axis=0))
    return _full_range(values_CHW, header, bands), valid_HW


def read_by_pillow(path: Path, header: Header) -> np.ndarray | None:
    """All pixels of a file whose values are not what is stored, CHW uint8: red, green, blue and
    alpha of a color table, or gray. None for plain files, and for those that Pillow does not read
    or reads in another mode."""
    if header.is_plain or header.width * header.height > _PILLOW_PX:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.size != (header.width, header.height):
                    return None
                if image.getexif().get(_ORIENTATION, 1) != 1:  # which Pillow applies to TIFFs
                    return None
                if header.table is not None:
                    # GDAL rounds the 16 bits of a TIFF's colors, and Pillow cuts them; of the 5
                    # bits of a TGA's, only Pillow makes the full range.
                    known = ("1",) if header.driver in ("GTiff", "TGA") else ("1", "P")
                    return _rgba(image) if image.mode in known else None
                is_gray = image.mode in ("1", "L") and header.dtypes == ("uint8",)
                return np.asarray(image.convert("L"))[None] if is_gray else None
    except Exception:  # noqa: BLE001  Pillow raises many kinds for files that it does not know
        return None


def _rgba(image: Image.Image) -> np.ndarray:
    return np.moveaxis(np.asarray(image.convert("RGBA")), 2, 0)


def _full_range(values_CHW: np.ndarray, header: Header, bands: tuple[int, ...]) -> np.ndarray:
    if values_CHW.dtype.kind != "u":
        return values_CHW
    planes = []
    for plane_HW, band in zip(values_CHW, bands, strict=True):
        white = (1 << header.bits[band - 1]) - 1
        plane = white - plane_HW if header.negative else plane_HW
        if plane_HW.dtype == np.uint8 and white < 255:
            plane = np.rint(plane.astype(np.float64) * 255 / white)
        planes.append(plane.astype(values_CHW.dtype))
    return np.stack(planes)


def _band_valid(src: Any, band: int, window: Window, alpha_is_data: bool) -> np.ndarray:
    if alpha_is_data and MaskFlags.alpha in src.mask_flag_enums[band - 1]:
        return np.ones((window.height, window.width), bool)
    valid_HW: np.ndarray = src.read_masks(band, window=window) != 0
    return valid_HW


def _bits(src: Any, band: int) -> int:
    full = 8 * np.dtype(src.dtypes[band - 1]).itemsize
    return min(full, int(src.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", full)))


def _color_table(src: Any, color_bands: tuple[int, ...], negative: bool) -> np.ndarray | None:
    """The table of the only band that is not alpha, or of the first frame of a GIF. GDAL gives
    negatives one that inverts them, and calls only those of one bit indices."""
    colors = {src.colorinterp[band - 1] for band in color_bands}
    if len(color_bands) != 1 and colors != {ColorInterp.palette}:
        return None
    band = color_bands[0]
    color = src.colorinterp[band - 1]
    if color != ColorInterp.palette and (negative or color != ColorInterp.undefined):
        return None
    try:
        entries = src.colormap(band)
    except ValueError:
        return None
    return np.array([entries[index] for index in range(len(entries))], np.uint8).reshape(-1, 4)

"""Rectangles of an image file's pixels, and which of them are valid.

Knows nothing of the network's windows, of filling or of normalization; what is done to stored
values is in `decoding.py`. Overviews are never read in place of pixels, and an EXIF orientation is
not applied: rows and columns are those of the file.

Legend: B bands as stored, C channels of the network, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from pipeline.errors import InputError
from pipeline.imagery.dataset import RASTER_ERRORS, read_dataset, root_cause
from pipeline.imagery.decoding import decode, stored_bands
from pipeline.imagery.mask_file import mask_of
from pipeline.scene import Rect, Scene
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.unit import Pixels


def read_pixels(scene: Scene, rect: Rect, access: Access = DEFAULT_ACCESS) -> Pixels:
    """The pixels of `rect`, in the scene's `values_dtype`, and which of them are valid.

    Values are those stored, unless the scene says otherwise: a color table is applied (`palette`),
    values of fewer than 8 bits are stretched to 0 to 255 (`bits`), a `negative` is inverted, and
    with `scales` and `offsets` values are float32.

    Validity follows rasterio's dataset mask over the selected bands, and is decided by stored
    values: a side-car, internal or alpha mask if there is one (not of an alpha band that is data),
    else nodata (alpha is ignored if nodata is set), NaN in float data, and colors that are
    transparent; a pixel is valid if any selected band is. `scene.nodata` overrides what the file
    says.

    Raises InputError(stage="read") for a file that is damaged in this place, has vanished or is
    no longer the one that was described; ValueError for a rect outside of the scene; and what
    `read_dataset` raises if the file could not be fetched.
    """
    if (
        min(rect.col_off, rect.row_off) < 0
        or min(rect.width, rect.height) < 1
        or rect.col_end > scene.width
        or rect.row_end > scene.height
    ):
        raise ValueError(f"{rect} is not inside {scene.url} of {scene.width}x{scene.height} px")
    window = Window(rect.col_off, rect.row_off, rect.width, rect.height)

    def read(src: Any, _: list[str]) -> tuple[np.ndarray, np.ndarray]:
        bands = stored_bands(src, scene)
        _check_shape(src, scene, max(bands))
        stored_BHW = src.read(bands, window=window)
        return decode(src, scene, stored_BHW, _valid(src, scene, bands, stored_BHW, window))

    try:
        values_CHW, valid_HW = read_dataset(scene.url, scene.sidecars, access, read, scene.mended)
    except RASTER_ERRORS as error:
        raise InputError(
            f"{scene.url}: window {rect} cannot be read: {root_cause(error, scene.url)}; replace"
            " the file or leave it out",
            url=scene.url,
            stage="read",
        ) from error
    distinct = tuple(dict.fromkeys(scene.bands))
    if distinct != scene.bands:
        values_CHW = values_CHW[[distinct.index(band) for band in scene.bands]]
    return Pixels(values_CHW, valid_HW, rect)


def _check_shape(src: Any, scene: Scene, highest: int) -> None:
    """Raise InputError if the open dataset has another size or type than the scene. highest: the
    last band that is read."""
    planned = f"{scene.width}x{scene.height} {scene.dtype}"
    dtype = src.dtypes[highest - 1] if highest <= src.count else f"{src.count} bands"
    current = f"{src.width}x{src.height} {dtype}"
    if current != planned:
        raise InputError(
            f"{scene.url}: changed since it was planned: was {planned} with band {highest},"
            f" is {current}; start a new output for the new file",
            url=scene.url,
            stage="read",
        )


def _valid(
    src: Any, scene: Scene, bands: tuple[int, ...], values: np.ndarray, window: Window
) -> np.ndarray:
    """bool HW, True = data; `values` has one plane for each of `bands`."""
    flags = [_mask_flags(src, scene, band) for band in bands]
    shared: np.ndarray | None = None
    if scene.nodata is None:
        masked = [b for b, f in zip(bands, flags, strict=True) if MaskFlags.per_dataset in f]
        if masked:
            # One mask for all bands: GDAL would decode it again for each.
            shared = _read_mask(src, scene, masked[0], window)
        elif all(MaskFlags.all_valid in f for f in flags):
            shared = np.ones(values.shape[1:], dtype=bool)
    is_float = values.dtype.kind == "f"
    if shared is not None and not is_float:
        return shared
    valid = np.zeros(values.shape[1:], dtype=bool)
    for band, band_flags, plane in zip(bands, flags, values, strict=True):
        if shared is not None:
            band_valid = shared
        elif scene.nodata is not None:
            band_valid = _differs(plane, scene.nodata)
        elif band_flags == [MaskFlags.nodata] and _exact(plane.dtype, src.nodatavals[band - 1]):
            # What GDAL would answer after decoding the band a second time.
            band_valid = _differs(plane, src.nodatavals[band - 1])
        elif band_flags == [MaskFlags.all_valid]:
            band_valid = np.ones(plane.shape, dtype=bool)
        else:
            band_valid = _read_mask(src, scene, band, window)
        valid |= band_valid & np.isfinite(plane) if is_float else band_valid
    return valid


def _mask_flags(src: Any, scene: Scene, band: int) -> list[MaskFlags]:
    """What GDAL takes the band's mask from."""
    flags: list[MaskFlags] = src.mask_flag_enums[band - 1]
    if scene.alpha_is_data and MaskFlags.alpha in flags:  # only for want of a mask and of nodata
        return [MaskFlags.all_valid]
    return flags


def _read_mask(src: Any, scene: Scene, band: int, window: Window) -> np.ndarray:
    """bool HW, True = data, as GDAL says for one band."""
    try:
        mask: np.ndarray = src.read_masks(band, window=window) != 0
    except RasterioIOError as error:
        name = mask_of(scene.sidecars)
        if name is None:
            raise
        raise RasterioIOError(f"its mask {name}: {root_cause(error, scene.url)}") from None
    return mask


def _exact(dtype: np.dtype, nodata: float) -> bool:
    """Whether a float64 names this nodata value without loss."""
    return dtype.kind in "iu" and dtype.itemsize <= 4 and float(nodata).is_integer()


def _differs(plane: np.ndarray, nodata: float) -> np.ndarray:
    """bool, True where the stored value is not `nodata`, compared in the plane's own type."""
    if plane.dtype.kind in "iu":
        if not float(nodata).is_integer():  # NaN and infinity included: no integer equals them
            return np.ones(plane.shape, dtype=bool)
        return np.not_equal(plane, int(nodata))
    with np.errstate(over="ignore"):
        stored = plane.dtype.type(nodata)
    return ~np.isnan(plane) if np.isnan(stored) else np.not_equal(plane, stored)

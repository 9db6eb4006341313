"""The mask beside an image (`a.tif.msk`): whether it can be applied.

GDAL passes over one that it cannot open, and every pixel would be valid in silence.
"""

from __future__ import annotations

from typing import Any

from pipeline.doubt import Doubt
from pipeline.imagery.dataset import RASTER_ERRORS, read_dataset, root_cause
from pipeline.imagery.input_file import InputFile, header_error
from pipeline.imagery.opener import beside
from pipeline.imagery.sidecars import is_mask
from pipeline.storage.access import Access

_FLAGS = "INTERNAL_MASK_FLAGS_1"
"""The tag that makes a raster a mask to GDAL, which says whether it is for all bands."""


def mask_of(sidecars: tuple[str, ...]) -> str | None:
    """The name of the mask among an image's side-cars, if there is one."""
    return next((name for name in sidecars if is_mask(name)), None)


def check_mask(file: InputFile, shape: tuple[int, int], access: Access) -> tuple[Doubt, ...]:
    """What is doubtful about the mask beside an image of this height and width.

    Raises InputError for one that is damaged or of another size, and what `read_dataset` raises.
    """
    name = mask_of(file.sidecars)
    if name is None:
        return ()
    url = beside(file.url, name)
    try:
        mask_shape, is_known = read_dataset(url, (), access, _facts)
    except RASTER_ERRORS as error:
        raise header_error(
            file.url,
            f"its mask {name} cannot be opened: {root_cause(error, url)}; replace it, or delete it"
            " if every pixel is valid",
        ) from error
    if mask_shape != shape:
        raise header_error(
            file.url,
            f"its mask {name} has {mask_shape[1]}x{mask_shape[0]} px, and the image"
            f" {shape[1]}x{shape[0]} px; replace it, or delete it if every pixel is valid",
        )
    if not is_known:
        return (Doubt("side_car", f"{name}: it has no {_FLAGS}, without which it is no mask"),)
    return ()


def _facts(src: Any, warnings: list[str]) -> tuple[tuple[int, int], bool]:
    """Height and width in pixels, and whether GDAL takes the raster for a mask."""
    del warnings
    return src.shape, _FLAGS in src.tags()

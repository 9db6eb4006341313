"""The transform of an image file: its own, or that of a world file."""

from __future__ import annotations

import math
import os
from typing import Any

from pipeline.doubt import Doubt
from pipeline.errors import DeniedError
from pipeline.imagery.dataset import RASTER_ERRORS, read_dataset
from pipeline.imagery.input_file import InputFile, header_error
from pipeline.imagery.opener import read_beside
from pipeline.imagery.sidecars import is_aux, is_world_file
from pipeline.imagery.world_file import MAX_BYTES, parse_world_file
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


def placed(src: Any, file: InputFile, access: Access) -> tuple[Affine6, tuple[Doubt, ...]]:
    """The transform of the open dataset of a file, else that of its world file, IDENTITY if there
    is neither; and which world files say nothing.

    Raises what `transform_of` and `read_dataset` raise.
    """
    names = [name for name in file.sidecars if is_world_file(name)]
    if names and not _has_tab(file.url):
        transform = _transform_without_world_files(src, file, access)
    else:
        transform = transform_of(src, file.url)
    if transform != IDENTITY:
        return transform, ()
    doubts = []
    for name in names:
        try:
            data = read_beside(file.url, name, access, MAX_BYTES)
        except (FileNotFoundError, DeniedError):
            doubts.append(Doubt("side_car", f"{name}: it cannot be read"))
            continue
        parsed = parse_world_file(data)
        if parsed is not None:
            return parsed, ()
        doubts.append(Doubt("side_car", f"{name}: it holds no six numbers"))
    return IDENTITY, tuple(doubts)


def _transform_without_world_files(src: Any, file: InputFile, access: Access) -> Affine6:
    """The transform of the image itself or of its `.aux.xml`: on local disk, GDAL has looked at the
    world files, too."""

    def read(alone: Any, _: list[str]) -> Affine6:
        return transform_of(alone, file.url)

    aux = [name for name in file.sidecars if is_aux(name)]
    try:
        return read_dataset(file.url, aux, access, read, only_sidecars=True)
    except RASTER_ERRORS:  # of a format that consists of several files
        return transform_of(src, file.url)


def _has_tab(url: str) -> bool:
    """Whether an image on local disk has a MapInfo file beside it, which takes precedence over a
    world file, and which only GDAL can read."""
    stem = url.rpartition(".")[0]
    return "://" not in url and any(os.path.exists(f"{stem}.{end}") for end in ("tab", "TAB"))

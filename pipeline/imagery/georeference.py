"""The transform of an image file: its own, or that of a world file."""

from __future__ import annotations

import os
from typing import Any

from pipeline.doubt import Doubt
from pipeline.errors import DeniedError
from pipeline.imagery.dataset import RASTER_ERRORS, read_dataset
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.opener import read_beside
from pipeline.imagery.sidecars import is_mask, is_world_file
from pipeline.imagery.world_file import MAX_BYTES, has_area, parse_world_file
from pipeline.scene import IDENTITY, Affine6
from pipeline.storage.access import Access


def placed(src: Any, file: InputFile, access: Access) -> tuple[Affine6, tuple[Doubt, ...]]:
    """The transform of the open dataset of a file, else that of its world file, IDENTITY if there
    is neither; and which of them say nothing.

    Raises what `read_dataset` raises.
    """
    names = [name for name in file.sidecars if is_world_file(name)]
    if names and not _has_tab(file.url):
        transform = _transform_without_world_files(src, file, access)
    else:
        transform = _own_transform(src)
    doubts = []
    if not has_area(transform):
        doubts.append(Doubt("no_area", f"({', '.join(f'{value:g}' for value in transform)})"))
        transform = IDENTITY
    if transform != IDENTITY:
        return transform, ()
    for name in names:
        try:
            data = read_beside(file.url, name, access, MAX_BYTES)
        except (FileNotFoundError, DeniedError):
            doubts.append(Doubt("side_car", f"{name}: it cannot be read"))
            continue
        parsed = parse_world_file(data)
        if parsed is not None:
            return parsed, tuple(doubts)
        doubts.append(Doubt("side_car", f"{name}: it holds no six numbers"))
    return IDENTITY, tuple(doubts)


def _transform_without_world_files(src: Any, file: InputFile, access: Access) -> Affine6:
    """The transform of the image itself, of its `.aux.xml` or `.aux`: on local disk, GDAL has
    looked at the world files, too."""

    def read(alone: Any, _: list[str]) -> Affine6:
        return _own_transform(alone)

    aux = [name for name in file.sidecars if not is_mask(name)]
    try:
        return read_dataset(file.url, aux, access, read, only_sidecars=True)
    except RASTER_ERRORS:  # of a format that consists of several files
        return _own_transform(src)


def _own_transform(src: Any) -> Affine6:
    """The transform of the open dataset, IDENTITY if it has none."""
    a, b, c, d, e, f = (float(value) for value in tuple(src.transform)[:6])
    return (a, b, c, d, e, f)


def _has_tab(url: str) -> bool:
    """Whether an image on local disk has a MapInfo file beside it, which takes precedence over a
    world file, and which only GDAL can read."""
    stem = url.rpartition(".")[0]
    return "://" not in url and any(os.path.exists(f"{stem}.{end}") for end in ("tab", "TAB"))

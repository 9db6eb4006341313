"""One image file as Swath reads it beside rasterio, Pillow and pyproj: what differs.

Knows one file and one reading of it; which files there are is the caller's business.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from pipeline.earth.area import CellAreas
from pipeline.errors import InputError, one_line
from pipeline.imagery.source import source_of
from pipeline.processes.limits import rearm
from pipeline.scene import IDENTITY, Rect, Scene
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support import raster_oracle
from tests.support.area_oracle import PixelAreas
from tests.support.raster_oracle import Header

EDGE_PX = 1000
"""Edge of a compared window: no multiple of any storage tile's."""
WHOLE_PX = 30_000_000
"""Larger images are compared in fixed windows, smaller ones everywhere."""
SAMPLED = 4
"""Windows along each side of a larger image."""
AREA_PIXELS = 5
"""Pixels along each side whose areas are compared."""
OPTIONS = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
"""GDAL 3.10's fast path for whole PNG images gives uninitialized memory for those that are cut,
other values each time."""
AREA_TOLERANCE = 2e-6
"""Relative: Swath promises 1e-6 between the nodes of its lattice."""

# GDAL's warnings need not be printed. Their level stays: Swath judges files by them.
logging.getLogger("rasterio").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Reading:
    """A file as Swath describes it under some settings."""

    path: str
    scene: Scene


def identify(path: str) -> Header | str:
    """The header that rasterio reads from a file; or why it reads none."""
    try:
        with rasterio.open(path) as src:
            return Header.of(src) if src.count else "no bands"
    except Exception as error:  # noqa: BLE001  whatever keeps rasterio from reading is an answer
        return one_line(error, type(error).__name__)


def why_unreadable(path: str) -> str | None:
    """Why rasterio does not read the pixels of a file that it opens; None if it does."""
    try:
        with rasterio.Env(**OPTIONS), rasterio.open(path) as src:
            for rect in _rects(src.width, src.height):
                rearm()
                src.read(window=Window(rect.col_off, rect.row_off, rect.width, rect.height))
    except Exception as error:  # noqa: BLE001  whatever keeps rasterio from reading is an answer
        return one_line(error, type(error).__name__)
    return None


def compare(reading: Reading) -> dict[str, Any]:
    """What differs between a scene and its file, and where Swath refuses to read.

    Keys: windows, disagreements (list of texts), refused (why windows that rasterio reads are
    refused), refused_by_both (windows), areas (pixels compared), decided (Swath's own rules).
    """
    scene = reading.scene
    report: dict[str, Any] = {"windows": 0, "refused_by_both": 0, "refused": [], "areas": 0}
    report["decided"] = _decided(scene)
    with rasterio.Env(**OPTIONS), rasterio.open(reading.path) as src:
        header = Header.of(src)
        pillow = raster_oracle.read_by_pillow(Path(reading.path), header)
        differences = _header_differences(scene, src, header)
        for rect in _rects(scene.width, scene.height):
            rearm()
            report["windows"] += 1
            differences += _window_differences(src, header, scene, rect, pillow, report)
        if not differences:  # a place on another grid would differ everywhere
            differences += _area_differences(src, scene, report)
    report["disagreements"] = differences[:10]
    return report


def _decided(scene: Scene) -> list[str]:
    """What Swath has decided by rules of its own."""
    decided = [doubt.kind for doubt in scene.doubts]
    for name in ("alpha_is_data", "palette", "negative"):
        if getattr(scene, name) and name not in decided:
            decided.append(name)
    if scene.bits is not None and scene.bits < 8:
        decided.append("few_bits")
    return decided


def _header_differences(scene: Scene, src: Any, header: Header) -> list[str]:
    expected = {
        "size": ((scene.width, scene.height), (header.width, header.height)),
        "palette": (scene.palette, header.table is not None),
        "values_dtype": (
            scene.values_dtype,
            "uint8" if header.table is not None else header.dtypes[scene.bands[0] - 1],
        ),
    }
    has_alpha = ColorInterp.alpha in src.colorinterp
    expected["alpha_is_data"] = (scene.alpha_is_data and not has_alpha, False)
    return [
        f"{name}: {ours}, but the file says {theirs}"
        for name, (ours, theirs) in expected.items()
        if ours != theirs
    ]


def _window_differences(
    src: Any,
    header: Header,
    scene: Scene,
    rect: Rect,
    pillow: np.ndarray | None,
    report: dict[str, Any],
) -> Iterator[str]:
    window = Window(rect.col_off, rect.row_off, rect.width, rect.height)
    expected: tuple[np.ndarray, np.ndarray] | None = None
    fault = ""
    try:
        expected = raster_oracle.read(
            src, header, scene.bands, window, alpha_is_data=scene.alpha_is_data
        )
    except Exception as error:  # noqa: BLE001  whatever keeps rasterio from reading is an answer
        fault = one_line(error, type(error).__name__)
    try:
        pixels = source_of(scene).read(scene, rect, DEFAULT_ACCESS)
    except InputError as error:
        if expected is None:
            report["refused_by_both"] += 1
        else:
            report["refused"].append(error.message)
        return
    if expected is None:
        yield f"{rect}: is read, but not by rasterio: {fault}"
        return
    values_CHW, valid_HW = expected
    if pixels.values_CHW.dtype != values_CHW.dtype or pixels.values_CHW.shape != values_CHW.shape:
        ours = f"{pixels.values_CHW.dtype} {pixels.values_CHW.shape}"
        yield f"{rect}: values are {ours}, by rasterio {values_CHW.dtype} {values_CHW.shape}"
        return
    yield from _differing(f"{rect}: validity", pixels.valid_HW, valid_HW)
    shown_HW = valid_HW if not header.is_plain else np.ones_like(valid_HW)
    for band, ours, theirs in zip(scene.bands, pixels.values_CHW, values_CHW, strict=True):
        yield from _differing(f"{rect}: band {band}", ours[shown_HW], theirs[shown_HW])
    if pillow is not None:
        rows, cols = np.s_[rect.row_off : rect.row_end], np.s_[rect.col_off : rect.col_end]
        for band, ours in zip(scene.bands, pixels.values_CHW, strict=True):
            theirs = pillow[band - 1, rows, cols]
            yield from _differing(
                f"{rect}: band {band} by Pillow", ours[valid_HW], theirs[valid_HW]
            )


def _differing(what: str, ours: np.ndarray, theirs: np.ndarray) -> Iterator[str]:
    same = ours == theirs
    if ours.dtype.kind in "fc":
        same |= np.isnan(ours) & np.isnan(theirs)
    if not same.all():
        first = int(np.flatnonzero(~same)[0])
        pair = f"{ours.ravel()[first]} and {theirs.ravel()[first]}"
        yield f"{what}: {(~same).sum():,} of {same.size:,} pixels differ, the first is {pair}"


def _area_differences(src: Any, scene: Scene, report: dict[str, Any]) -> Iterator[str]:
    if src.crs is None or tuple(src.transform)[:6] == IDENTITY:
        if scene.crs is not None:
            report["decided"].append("placed by a world file")
        return
    if any(doubt.kind == "no_area" for doubt in scene.doubts):
        report["decided"].append("its transform counts as absent")
        return
    theirs: PixelAreas | None = None
    with suppress(Exception):  # what pyproj does not know has no area by pyproj
        theirs = PixelAreas(src.crs.to_wkt(), tuple(src.transform)[:6])
    if theirs is None or not theirs.is_earth:
        report["decided"].append(f"area {'omitted' if scene.crs is None else 'given'}: not Earth")
        return
    if theirs.is_wider_than_the_world:
        yield "a pixel goes around the Earth, and nothing is said of it"
        return
    if scene.crs is None:
        yield f"has no CRS, but rasterio says {one_line(str(src.crs)[:80], '')}"
        return
    try:
        ours = CellAreas(scene.crs, scene.transform, scene.width, scene.height)
    except ValueError as error:
        yield f"has no areas: {error}"
        return
    for row in _spread(scene.height, AREA_PIXELS):
        for col in _spread(scene.width, AREA_PIXELS):
            expected_m2 = theirs.of(col, row)
            if expected_m2 is None:
                continue
            report["areas"] += 1
            area_m2 = float(ours.of(Rect(col, row, 1, 1))[0, 0])
            if not abs(area_m2 - expected_m2) <= AREA_TOLERANCE * expected_m2:
                yield f"pixel {col},{row}: {area_m2:.6g} m2, by pyproj {expected_m2:.6g}"


def _rects(width: int, height: int) -> Iterator[Rect]:
    """Windows of the whole image, or some of a large one: corners, edges and inside."""
    cols, rows = (
        list(range(0, side, EDGE_PX))
        if width * height <= WHOLE_PX
        else _spread(max(1, side - EDGE_PX + 1), SAMPLED)
        for side in (width, height)
    )
    for row in rows:
        for col in cols:
            yield Rect(col, row, min(EDGE_PX, width - col), min(EDGE_PX, height - row))


def _spread(count: int, number: int) -> list[int]:
    """Some of 0 to count - 1, as far apart as can be, the first and the last among them."""
    return sorted({round(k * (count - 1) / (number - 1)) for k in range(number)})

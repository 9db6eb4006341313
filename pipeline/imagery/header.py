"""Turns the header of an image file into a Scene.

Reads headers only, never a pixel. Decides which bands feed the network, for that is a question
to the header. Knows neither how inputs are found nor how scenes are cut.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from rasterio.crs import CRS
from rasterio.enums import ColorInterp, WktVersion

from pipeline.earth.crs import parse_crs
from pipeline.errors import InputError, UsageError
from pipeline.failure import Failure
from pipeline.imagery.gdal import RASTER_ERRORS, read_dataset, root_cause
from pipeline.imagery.input_file import InputFile, escape_non_utf8
from pipeline.imagery.opener import read_beside
from pipeline.imagery.plausibility import implausibility
from pipeline.scene import IDENTITY, Affine6, Scene
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS, Access

RGB = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
ACQUIRED_TAGS = (("IMAGERY", "ACQUISITIONDATETIME"), (None, "ACQUISITIONDATETIME"))
WRITTEN_TAGS = ((None, "EXIF_DateTimeOriginal"), (None, "TIFFTAG_DATETIME"))


def describe_or_failure(
    found: InputFile, settings: Settings, channels: int, access: Access
) -> Scene | Failure:
    """`describe`, with what is wrong with the file as a Failure: exceptions lose their cause when
    they travel between processes."""
    try:
        return describe(found, settings, channels, access)
    except (InputError, UsageError) as error:
        return Failure(
            scene_id=escape_non_utf8(found.scene_id),
            url=escape_non_utf8(found.url),
            stage="describe",
            window=None,
            error=type(error.__cause__ or error).__name__,
            message=str(error),
        )


def describe(
    found: InputFile, settings: Settings, channels: int, access: Access = DEFAULT_ACCESS
) -> Scene:
    """The scene in the file, whose bands feed the `channels` of the network.

    Raises InputError(stage="describe") for what is wrong with this file, and UsageError where an
    option is missing or does not fit it: --bands, --scale.
    """
    url = found.url
    if escape_non_utf8(url) != url:
        raise UsageError(f"{escape_non_utf8(url)}: the file's name is not UTF-8; rename it")

    def look(src: Any, notes: list[str]) -> Scene:
        _check_is_image(src, url)
        bands = _bands(src, url, settings.bands, channels)
        dtype = _dtype(src, url, bands, settings)
        transform = _transform(src, url)
        why_not = implausibility(src, notes, dtype, found.size_bytes)
        if why_not:
            raise _bad(url, f"{why_not}; its header is damaged: replace it or leave it out")
        if transform == IDENTITY:
            transform = _world_transform(found, access)
        return Scene(
            scene_id=found.scene_id,
            url=url,
            version=found.version,
            sidecars=found.sidecars,
            width=src.width,
            height=src.height,
            bands=bands,
            dtype=dtype,
            nodata=settings.nodata,
            # A CRS without a transform places nothing: areas would be nonsense.
            crs=None if transform == IDENTITY else _crs_on_earth(src.crs),
            transform=transform,
            datetime=_datetime(src),
            striped=_striped(src),
            alpha=tuple(b for b in bands if src.colorinterp[b - 1] == ColorInterp.alpha),
        )

    try:
        return read_dataset(url, found.sidecars, access, look)
    except RASTER_ERRORS as error:
        raise _bad(url, f"cannot be opened as an image: {root_cause(error, url)}") from error


def _bad(url: str, why: str) -> InputError:
    return InputError(f"{url}: {why}", url=url, stage="describe")


def _check_is_image(src: Any, url: str) -> None:
    if src.count == 0:
        names = list(src.subdatasets)
        if names:
            raise _bad(
                url,
                f"holds {len(names)} subdatasets and no bands of its own; extract one first,"
                f" e.g. gdal_translate '{names[0]}' out.tif",
            )
        raise _bad(url, "has no bands")
    if src.width < 1 or src.height < 1:
        raise _bad(url, f"is an image of {src.width}x{src.height} px")


def _bands(src: Any, url: str, asked: tuple[int, ...] | None, channels: int) -> tuple[int, ...]:
    """1-based band of each channel: as asked, else by colour, else the first that are not alpha."""
    colours = list(src.colorinterp)
    plain = [i for i, c in enumerate(colours, start=1) if c != ColorInterp.alpha] or [1]
    example = "--bands " + ",".join(str(plain[min(i, len(plain) - 1)]) for i in range(channels))
    if asked is not None:
        if len(asked) != channels:
            raise UsageError(
                f"--bands names {_count(len(asked), 'band')}, but the network has"
                f" {_count(channels, 'channel')}:"
                f" name one band per channel, e.g. {example}"
            )
        if max(asked) > src.count:
            raise UsageError(
                f"{url}: has {_count(src.count, 'band')}, but --bands asks for band {max(asked)}:"
                f" name bands from 1 to {src.count}, e.g. {example}"
            )
        bands = asked
    elif channels == 3 and all(colour in colours for colour in RGB):
        bands = tuple(colours.index(colour) + 1 for colour in RGB)
    else:
        bands = tuple(plain[:channels])
    if any(colours[band - 1] == ColorInterp.palette for band in bands):
        raise _bad(
            url,
            "its values are indices into a colour table; convert it first:"
            " gdal_translate -expand rgb IN OUT",
        )
    if len(bands) < channels:
        alpha = f" and {src.count - len(bands)} alpha" if src.count > len(bands) else ""
        raise UsageError(
            f"{url}: has {_count(len(bands), 'band')}{alpha}, but the network has"
            f" {_count(channels, 'channel')}:"
            f" name one band per channel, e.g. {example}"
        )
    return bands


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _dtype(src: Any, url: str, bands: tuple[int, ...], settings: Settings) -> str:
    dtypes = sorted({src.dtypes[band - 1] for band in bands})
    if len(dtypes) > 1:
        listed = ",".join(map(str, bands))
        raise _bad(
            url, f"its bands {listed} differ in type ({', '.join(dtypes)}); convert it first"
        )
    dtype = str(dtypes[0])
    if dtype.startswith("complex"):
        raise _bad(url, f"holds complex numbers ({dtype}); convert it to amplitudes first")
    if dtype != "uint8" and settings.scale is None:
        raise UsageError(
            f"{url}: holds {dtype}, not uint8: say with --scale (and --offset) how stored values"
            " become what the checkpoint was trained on; e.g. --scale 0.0001 for Sentinel-2"
            " reflectance; with another --output, if this one exists"
        )
    return dtype


def _transform(src: Any, url: str) -> Affine6:
    a, b, c, d, e, f = (float(value) for value in tuple(src.transform)[:6])
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or a * e - b * d == 0:
        raise _bad(url, f"its transform ({a}, {b}, {c}, {d}, {e}, {f}) maps pixels to no area")
    return (a, b, c, d, e, f)


def _world_transform(found: InputFile, access: Access) -> Affine6:
    """Of the world file beside it, which GDAL cannot read through Python: six lines, x then y of
    the column step, of the row step, and of the centre of the first pixel."""
    names = [name for name in found.sidecars if name.lower().endswith(("w", ".wld"))]
    if not names:
        return IDENTITY
    try:
        a, d, b, e, x, y = (
            float(line) for line in read_beside(found.url, names[0], access).split()
        )
    except ValueError as error:
        raise _bad(found.url, f"its world file {names[0]} holds no six numbers") from error
    return (a, b, x - (a + b) / 2, d, e, y - (d + e) / 2)


def _crs_on_earth(crs: CRS | None) -> str | None:
    """None too for local, geocentric and vertical systems: they give no area and no place."""
    name = _crs(crs)
    try:
        return name if name is None else (parse_crs(name), name)[1]
    except ValueError:
        return None


def _crs(crs: CRS | None) -> str | None:
    """What CRS.from_user_input takes: an authority code only if it says exactly the same."""
    if not crs:
        return None
    code = crs.to_authority(confidence_threshold=100)
    if code is not None and CRS.from_authority(*code) == crs:
        return ":".join(code)
    return str(crs.to_wkt(version=WktVersion.WKT2_2019))


def _datetime(src: Any) -> str | None:
    """ISO 8601: when the picture was taken if the file says so, else when it was written."""
    for namespace, tag in ACQUIRED_TAGS + WRITTEN_TAGS:
        text = str(src.tags(ns=namespace).get(tag, "")).strip()
        for parse in (datetime.fromisoformat, _exif_time):
            try:
                return parse(text).isoformat()
            except ValueError:
                continue
    return None


def _exif_time(text: str) -> datetime:
    # TIFF 6.0, page 31, and EXIF 2.3 agree on this form.
    return datetime.strptime(text, "%Y:%m:%d %H:%M:%S")


def _striped(src: Any) -> bool:
    """Whether a part of a row costs a whole row: strips, and formats decoded as a whole."""
    if src.driver == "JP2OpenJPEG":
        return False
    return bool(src.block_shapes[0][1] >= src.width)

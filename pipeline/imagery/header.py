"""The header of an image file as a Scene.

Reads headers, and pixels only of an alpha band that is to be judged. Knows neither how inputs are
found nor how scenes are divided.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from pipeline.doubt import Doubt
from pipeline.errors import InputError, UsageError
from pipeline.failure import Failure
from pipeline.imagery.alpha import judge_alpha
from pipeline.imagery.band_files import check_not_one_of_several
from pipeline.imagery.bitmap import bitmap_fault
from pipeline.imagery.contents import contents_doubts, jpeg_header_of
from pipeline.imagery.dataset import RASTER_ERRORS, read_bytes, read_dataset, root_cause
from pipeline.imagery.encoding import encoding_of, nodata_doubt
from pipeline.imagery.input_file import InputFile, escape_non_utf8, header_error
from pipeline.imagery.mask_file import check_mask
from pipeline.imagery.other_formats import missing_driver
from pipeline.imagery.outage import check_input_is_there
from pipeline.imagery.place import place_of
from pipeline.imagery.plausibility import implausibility
from pipeline.imagery.sidecars import has_sidecar_name, is_erdas_aux
from pipeline.imagery.storage_tiles import is_striped, storage_tile
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS, Access
from pipeline.storage.local_tree import dead_link

_ACQUIRED_TAGS = (("IMAGERY", "ACQUISITIONDATETIME"), (None, "ACQUISITIONDATETIME"))
"""GDAL's domain and name of the tags that say when the picture was taken."""
_WRITTEN_TAGS = ((None, "EXIF_DateTimeOriginal"), (None, "TIFFTAG_DATETIME"))
"""GDAL's domain and name of the tags that may only say when the file was written."""

_UNKNOWN_FORMAT = "not recognized as being in a supported file format"
"""GDAL's words for a file that no driver takes."""


def describe_or_failure(
    file: InputFile, settings: Settings, channels: int, access: Access
) -> Scene | Failure:
    """The scene in the file, or what is wrong with the file as a Failure: an exception would lose
    its cause on the way between processes."""
    try:
        return describe(file, settings, channels, access)
    except (InputError, UsageError) as error:
        return Failure(
            scene_id=escape_non_utf8(file.scene_id),
            url=escape_non_utf8(file.url),
            stage="describe",
            window=None,
            error=type(error.__cause__ or error).__name__,
            message=str(error),
        )


def describe(
    file: InputFile, settings: Settings, channels: int, access: Access = DEFAULT_ACCESS
) -> Scene:
    """The scene in the file, with the bands that feed the network's `channels` input channels.

    Raises InputError(stage="describe") for what is wrong with this file, UsageError if an option
    (--bands, --scale) is missing or does not fit it, and UnfinishedError if its INPUT is gone.
    """
    url = file.url
    if escape_non_utf8(url) != url:
        raise UsageError(f"{escape_non_utf8(url)}: the file's name is not UTF-8; rename it")

    def read(src: Any, warnings: list[str]) -> Scene:
        return _scene(src, warnings, file, settings, channels, access)

    _check_path(file)
    try:
        if _has_inert_aux(file) and read_dataset(url, file.sidecars, access, _is_alone):
            with suppress(*RASTER_ERRORS):  # of a format that only opens files on disk
                return read_dataset(url, file.sidecars, access, read, only_sidecars=True)
        return read_dataset(url, file.sidecars, access, read)
    except RASTER_ERRORS as error:
        check_input_is_there(url, file.scene_id)
        reason = root_cause(error, url)
        if _UNKNOWN_FORMAT in reason and (remedy := missing_driver(url)):
            raise header_error(url, remedy) from error
        raise header_error(
            url, f"cannot be opened as an image: {reason}; replace the file or leave it out"
        ) from error


def _scene(
    src: Any,
    warnings: list[str],
    file: InputFile,
    settings: Settings,
    channels: int,
    access: Access,
) -> Scene:
    _check_is_image(src, file.url)
    if settings.bands is None:
        check_not_one_of_several(src, file.url, channels, access)
    alpha = judge_alpha(src, file, settings, access)
    encoding = encoding_of(src, file.url, settings, channels, alpha.is_data)
    reason = implausibility(src, warnings, encoding.dtype, file.size_bytes)
    if reason:
        raise header_error(file.url, f"{reason}; its header is damaged: replace it or leave it out")
    if src.driver == "BMP" and (reason := read_bytes(file.url, access, bitmap_fault)):
        raise header_error(file.url, f"{reason}; convert it, e.g. magick IN OUT.png")
    place = place_of(src, file, access)
    jpeg = jpeg_header_of(src, file.url, access)
    storage_px, storage_bytes = storage_tile(src, encoding.dtype)
    # With --nodata, the file's own mask is ignored.
    mask_doubts = check_mask(file, src.shape, access) if settings.nodata is None else ()
    return Scene(
        scene_id=file.scene_id,
        url=file.url,
        version=file.version,
        sidecars=file.sidecars,
        width=src.width,
        height=src.height,
        bands=encoding.bands,
        dtype=encoding.dtype,
        nodata=settings.nodata,
        crs=place.crs,
        transform=place.transform,
        datetime=_datetime(src),
        striped=is_striped(src),
        source=file.source,
        palette=encoding.palette,
        negative=encoding.negative,
        bits=encoding.bits,
        scales=encoding.scales,
        offsets=encoding.offsets,
        alpha_is_data=alpha.is_data,
        storage_px=storage_px,
        storage_bytes=storage_bytes,
        mended=bool(jpeg.patches),
        doubts=(
            *file.doubts,
            *place.doubts,
            *mask_doubts,
            *_erdas_doubt(src, file),
            *alpha.doubts,
            *encoding.doubts,
            *nodata_doubt(encoding.dtype, settings.nodata),
            *contents_doubts(src, file.url, jpeg, access),
        ),
    )


def _has_inert_aux(file: InputFile) -> bool:
    """Whether an `.aux.xml` on local disk decides nothing. GDAL had better not see it, for it may
    repeat or contradict the image's bits and times, and nobody would notice if it changes."""
    name = f"{file.url}.aux.xml"
    return (
        "://" not in name
        and not file.url.lower().endswith(".vrt")
        and os.path.basename(name) not in file.sidecars
        and os.path.isfile(name)
    )


def _is_alone(src: Any, warnings: list[str]) -> bool:
    """Whether GDAL takes what it knows of the open dataset from no file but the image and its
    side-cars: what others say, such as a `.tab`, is lost to whoever does not see them."""
    del warnings
    others = [name for name in src.files if name != src.name]
    return all(has_sidecar_name(name) for name in others)


def _erdas_doubt(src: Any, file: InputFile) -> Iterator[Doubt]:
    """The doubt about an `.aux` of Erdas that GDAL passes over without a word."""
    names = [name for name in file.sidecars if is_erdas_aux(name)]
    if names and not any(map(is_erdas_aux, src.files)):
        yield Doubt("side_car", f"{names[0]}: it is damaged, or about another image")


def _check_path(file: InputFile) -> None:
    """Raise InputError for a local path that GDAL had better not see: a link that leads nowhere,
    whose target's name it may be unable to quote, or a pipe, which it would wait for."""
    url = file.url
    if "://" in url:
        return
    try:
        mode = os.stat(url).st_mode
    except OSError as error:
        check_input_is_there(url, file.scene_id)
        if why := dead_link(url):
            raise header_error(url, f"cannot be opened as an image: {why}") from error
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise header_error(url, "is a pipe, a socket or a device, not a file; leave it out")


def _check_is_image(src: Any, url: str) -> None:
    if src.count == 0:
        names = list(src.subdatasets)
        if names:
            raise header_error(
                url,
                f"holds {len(names)} subdatasets and no bands of its own; extract one first,"
                f" e.g. gdal_translate '{names[0]}' out.tif",
            )
        raise header_error(url, "has no bands; replace the file or leave it out")
    if src.width < 1 or src.height < 1:
        raise header_error(
            url, f"is an image of {src.width}x{src.height} px; replace the file or leave it out"
        )


def _datetime(src: Any) -> str | None:
    """ISO 8601: when the picture was taken if the file says so, else when it was written."""
    for namespace, tag in _ACQUIRED_TAGS + _WRITTEN_TAGS:
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

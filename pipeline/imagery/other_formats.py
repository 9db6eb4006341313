"""Rasters that a folder is not searched for, and formats that this GDAL has no driver for.

Knows suffixes and names of formats; opens no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

_DRIVERS = {
    ".ecw": "ECW",
    ".sid": "MrSID",
    ".hdf": "HDF4",
    ".jxl": "JPEGXL",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".kea": "KEA",
    ".fits": "FITS",
    ".exr": "EXR",
}
"""The GDAL drivers, by suffix, that are plugins or need a library that rasterio's wheels lack."""
_BY_NAME = (
    *(".vrt", ".img", ".nc", ".nc4", ".h5", ".hdf5", ".he5", ".grib", ".grb", ".grb2", ".webp"),
    *(".bil", ".ntf", ".nitf", ".asc", ".gpkg", ".mbtiles", ".j2k", ".jpf", ".bmp", ".gif"),
)
"""Suffixes of rasters that are read if they are named, and are often something else."""


def missing_driver(name: str) -> str | None:
    """What to do about a file of this name if GDAL here has no driver for its format, as the end of
    a sentence that starts with it; None if it has, or the suffix tells no format."""
    path = PurePosixPath(name)
    driver = _DRIVERS.get(path.suffix.lower())
    if driver is None or _is_installed(driver):
        return None
    return f"is of the format {driver}, {_remedy(driver, path.name, f'{path.stem}.tif')}"


def hint_at_others(names: Iterable[str], location: str) -> str | None:
    """What to do about the rasters among a folder's files that it is not searched for, as a clause;
    None if there are none."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in names)
    for suffix, count in suffixes.most_common():
        driver = _DRIVERS.get(suffix)
        if driver and not _is_installed(driver):
            files = f"{count:,} {suffix} of the format {driver}"
            return f"it has {files}, {_remedy(driver, f'IN{suffix}', 'OUT.tif')}"
        if driver or suffix in _BY_NAME:
            pattern = f"{location.rstrip('/')}/**/*{suffix}"
            return f"it has {count:,} {suffix}: name them, e.g. '{pattern}'"
    return None


def _remedy(driver: str, source: str, target: str) -> str:
    return (
        f"for which GDAL has no driver here; convert with a GDAL whose `gdalinfo --formats` lists"
        f" {driver}: gdal_translate {source} {target}"
    )


def _is_installed(driver: str) -> bool:
    import rasterio  # noqa: PLC0415  GDAL takes a quarter of a second to load

    with rasterio.Env() as env:
        return driver in env.drivers()

"""Environments in which a process must do the same as in any other: variables of PROJ, GDAL and
others that lead astray, a home folder full of traps, a user without a name."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

from tests.support.rasters import write_raster

ROOT = Path(__file__).parent.parent.parent
UID = 54321
"""A user without a name and a home."""
TRAPS = "{traps}"
"""Stands for the folder of `write_traps`."""
ENVIRONMENTS: dict[str, Mapping[str, str | None]] = {
    "no PROJ data": {"PROJ_DATA": "/nonexistent"},
    "another PROJ's data": {"PROJ_LIB": f"{TRAPS}/proj", "PROJ_AUX_DB": f"{TRAPS}/proj/proj.db"},
    "PROJ's rules": {"PROJ_NETWORK": "ON", "PROJ_ONLY_BEST_DEFAULT": "YES"},
    "PROJ's grids": {"XDG_DATA_HOME": TRAPS},
    "no GDAL data": {"GDAL_DATA": "/nonexistent"},
    "no drivers": {"GDAL_DRIVER_PATH": f"{TRAPS}/drivers", "GDAL_SKIP": "PNG"},
    "GDAL's options": {
        "GDAL_GEOREF_SOURCES": "NONE",
        "GDAL_JPEG_TO_RGB": "NO",
        "GTIFF_IMPORT_FROM_EPSG": "NO",
        "GTIFF_POINT_GEO_IGNORE": "TRUE",
        "GTIFF_REPORT_COMPD_CS": "NO",
        "OSR_USE_NON_DEPRECATED": "NO",
    },
    "GDAL's options at home": {"HOME": TRAPS},
    "no locale, home and temporary folder": {
        "LC_ALL": "xx_NONSENSE",
        "HOME": None,
        "TMPDIR": "/proc/nonexistent",
        "TZ": "Nowhere/Nonsense",
    },
    "numbers": {
        "ATEN_CPU_CAPABILITY": "default",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR X86_V3",
        "NUMBA_DISABLE_JIT": "1",
        "NUMBA_NUM_THREADS": "many",
        "OMP_NUM_THREADS": "many",
        "OPENBLAS_NUM_THREADS": "-3",
        "PYTHONHASHSEED": "7",
        "PYTHONOPTIMIZE": "1",
    },
}
"""Variables; None: unset."""


def write_traps(folder: Path) -> Path:
    """Write a database, a grid, a driver and options that PROJ and GDAL find, and return the
    folder."""
    for name in ("proj", "drivers", ".gdal"):
        (folder / name).mkdir(parents=True)
    with sqlite3.connect(folder / "proj" / "proj.db") as database:
        database.execute("CREATE TABLE metadata(key TEXT, value TEXT)")
    # A shift of 100 arc seconds all over Great Britain.
    path = folder / "proj" / "uk_os_OSTN15_NTv2_OSGBtoETRS.tif"
    place = {"crs": "EPSG:4277", "transform": from_origin(-12.5, 63.5, 1, 1)}
    with rasterio.open(write_raster(path, np.full((2, 30, 30), 100, "f4"), **place), "r+") as file:
        file.update_tags(TYPE="HORIZONTAL_OFFSET", AREA_OR_POINT="Point")
        file.update_tags(2, positive_value="east")
        file.descriptions = ("latitude_offset", "longitude_offset")
        file.units = ("arc-second", "arc-second")
    (folder / "drivers" / "gdal_NONE.so").write_bytes(b"not a library")
    options = "GTIFF_POINT_GEO_IGNORE=TRUE\nGTIFF_REPORT_COMPD_CS=NO\n"
    (folder / ".gdal" / "gdalrc").write_text(f"[configoptions]\n{options}")
    return folder


def environment(*names: str, traps: Path) -> dict[str, str]:
    """This process's variables with those of the environments of these names."""
    variables: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in names:
        variables |= ENVIRONMENTS[name]
    return {
        key: value.replace(TRAPS, str(traps))
        for key, value in variables.items()
        if value is not None
    }


def without_a_name() -> list[str]:
    """The words before a command that make it the command of a user without a name and a home; none
    if that cannot be done here."""
    words = [
        *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"),
        # The interpreter may be in a folder that is root's alone.
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
        *("env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "USERNAME"),
    ]
    if os.getuid() or not shutil.which("setpriv"):
        return []
    done = subprocess.run([*words, sys.executable, "-c", ""], capture_output=True, check=False)
    return [] if done.returncode else words

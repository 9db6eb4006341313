"""The environment variables of this process that would decide pixels, places or areas.

GDAL takes each option that nobody sets from the environment, PROJ its rules and its grids, numpy,
numba and torch the precision and the instructions they compute with. Rows must not depend on them,
so they are removed, or set to what Swath needs, before any of these libraries starts. How a server
is reached (AWS_*, proxies, certificates) and what is logged (CPL_*) stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

DATA = ("GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_DATA", "PROJ_LIB")
"""Folders of GDAL and PROJ. The wheels bring their own data; another build (conda, Debian) may need
the variables to find them. See `pipeline.imagery.gdal`."""

_DECIDING = (
    *("GDAL_", "GTIFF_", "TIFF_", "JPEG_", "JP2", "JXL_", "VRT_", "RAW_"),
    *(
        "BSB_",
        "DTED_",
        "ECW_",
        "GRIB_",
        "HFA_",
        "MRF_",
        "NITF_",
        "PDF_",
        "PDS_",
        "PDS4_",
        "RPFTOC_",
    ),
    *("CENTER_LONG", "CONVERT_YCBCR_TO_RGB", "ESRI_XML_PAM", "GMLJP2OVERRIDE", "REPORT_COMPD_CS"),
    *("USE_RRD", "USE_TILE_AS_BLOCK", "OGR_", "OSR_", "PROJ_"),
    *("DNNL_", "ONEDNN_", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("NVIDIA_TF32_OVERRIDE", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES", "NUMBA_"),
)
"""How their names begin: options of GDAL (port/cpl_known_config_options.h) and PROJ, precision and
instructions of numpy, numba and torch's libraries."""
_HARMLESS = (
    *("GDAL_HTTP", "GDAL_PROXY_AUTH", "GDAL_CURL_CA_BUNDLE", "PROJ_CURL_CA_BUNDLE", "PROJ_DEBUG"),
    *("NUMBA_CACHE", *DATA),
)
"""Exceptions, by how their names begin."""

_OURS = {
    # Formats that are a few lines of text that name a server or other files: an archive could hide
    # them under any name, and reading it would make us send requests.
    "GDAL_SKIP": "DAAS EEDA EEDAI ESRIC GTI HTTP MRF PLMOSAIC STACIT STACTA WCS WMS WMTS",
    # Instead of a gdalrc in the home folder, which may set any option.
    "GDAL_CONFIG_FILE": os.devnull,
    # Instead of the folder, in the home folder, of datum grids that somebody has downloaded.
    "PROJ_USER_WRITABLE_DIRECTORY": os.devnull,
}


def settle_variables() -> None:
    """Remove the variables that would decide rows, and set those that must be set."""
    remove_variables(
        name
        for name in tuple(os.environ)
        if name.startswith(_DECIDING) and not name.startswith(_HARMLESS)
    )
    os.environ.update(_OURS)


def remove_variables(names: Iterable[str]) -> None:
    """Remove variables, for C code, too."""
    for name in names:
        os.environ.pop(name, None)

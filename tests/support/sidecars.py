"""Side-cars as GDAL, QGIS and people write them."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import rasterio

PLACE = "<SRS>EPSG:32633</SRS><GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
"""What an `.aux.xml` says of the place of an image."""


def write_aux(image: Path, decisive: str = "", bands: str = "") -> Path:
    """Write the `.aux.xml` of an image from elements for the dataset and for its bands."""
    path = image.with_name(f"{image.name}.aux.xml")
    path.write_text(f"<PAMDataset>{decisive}{bands}</PAMDataset>")
    return path


def nodata_of(band: int, value: int) -> str:
    """The element that gives a band a nodata value."""
    return f'<PAMRasterBand band="{band}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'


def statistics_of(image: Path, scratch: Path) -> bytes:
    """The `.aux.xml` that GDAL writes when it computes an image's statistics, an existing one
    included. The image and what is beside it stay untouched."""
    scratch.mkdir(exist_ok=True)
    copy = Path(shutil.copy(image, scratch))
    aux = image.with_name(f"{image.name}.aux.xml")
    if aux.exists():
        shutil.copy(aux, scratch)
    with warnings.catch_warnings(), rasterio.open(copy) as src:
        warnings.simplefilter("ignore")  # what will replace it in rasterio 2 stores nothing
        for band in src.indexes:
            src.statistics(band)
    content = (scratch / aux.name).read_bytes()
    assert b"STATISTICS_MEAN" in content
    return content

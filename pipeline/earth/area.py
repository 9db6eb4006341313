"""Areas of pixel cells on the ellipsoid. Knows grids and CRS; no scene, file, class or mask.

North-up geographic grids have a closed formula, one value per row. On other grids the area element
is computed at the nodes of a lattice and interpolated, or at every pixel if pixels are large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.earth.crs import parse_crs
from pipeline.scene import Affine6, Rect

MAX_NODE_STEP_PX = 64
"""The largest distance between nodes of the lattice, in pixels."""
MAX_NODE_STEP_M = 10000.0
"""The same in meters: bilinear interpolation errs by h**2 / 8 * f'' (f'' <= 4 for Mercator), 1.2e-6
of the area."""
MAX_POINT_PIXEL_M = 16000.0
"""For larger pixels the area element at the center errs by over 1e-6: four Gauss points instead."""
DIFFERENCE_M = 100.0
"""Half-width of a central difference: PROJ's iterative inverses err by up to 4e-6 m, a chord by
1e-10."""
CHUNK_POINTS = 65536
"""Points passed to PROJ at once."""
GAUSS_PX = 0.5 / math.sqrt(3.0)
"""The distance of a pixel's Gauss points from its center, in either direction."""


class AreaLines(NamedTuple):
    """Areas of the cells of a rectangle, interpolated between K lines. Row y, between line
    k = `line_H[y]` and the next one, has `above_KW[k] + share_H[y] * slope_KW[k]`. W is 1 if all
    cells of a row have the same area."""

    above_KW: np.ndarray
    """float64, m2: the areas on each line."""
    slope_KW: np.ndarray
    """float64, m2: their increase from each line to the next."""
    line_H: np.ndarray
    """int: the line above each row."""
    share_H: np.ndarray
    """float64: the position of each row between its lines, 0 to 1."""

    def values(self, width: int) -> np.ndarray:
        """The area of each cell: float64 (height, width), m2; a read-only view."""
        rows = self.slope_KW[self.line_H]
        rows *= self.share_H[:, None]
        rows += self.above_KW[self.line_H]
        return np.broadcast_to(rows, (len(rows), width))


def lines_of(area_HW: np.ndarray) -> AreaLines:
    """The lines for known areas: of each cell (H, W), or of each row (H, 1)."""
    height = len(area_HW)
    return AreaLines(area_HW, np.zeros(area_HW.shape), np.arange(height), np.zeros(height))


@dataclass(frozen=True)
class Nodes:
    """Area elements at the nodes of the lattice, which is fixed to the scene."""

    first_col: int
    """The column of the leftmost nodes, in steps of the lattice."""
    first_row: int
    """The row of the uppermost nodes, in steps of the lattice."""
    m2: np.ndarray
    """float64 (rows, columns), m2 per pixel; NaN outside the domain."""


class CellAreas:
    """WGS 84 ellipsoidal area of each pixel cell of one scene's grid."""

    def __init__(self, crs: str, transform: Affine6, width: int, height: int) -> None:
        """Takes the scene's own grid. Raises ValueError if the CRS has no place on Earth, or the
        transform gives pixels no size."""
        self._crs = parse_crs(crs)
        self._transform = transform
        self._width, self._height = width, height
        a, b, _, d, e, _ = transform
        self._pixel_m = max(math.hypot(a, d), math.hypot(b, e)) * self._crs.unit_m
        if not (math.isfinite(self._pixel_m) and self._pixel_m > 0):
            raise ValueError(f"transform {transform} gives pixels no size; georeference the raster")
        self._north_up = self._crs.transformer is None and b == 0 and d == 0
        self._node_step_px = MAX_NODE_STEP_PX
        while self._node_step_px > 1 and self._node_step_px * self._pixel_m > MAX_NODE_STEP_M:
            self._node_step_px //= 2

    def of(self, rect: Rect) -> np.ndarray:
        """The areas of the cells of `rect`: float64 (height, width), m2; 0.0 outside the domain. A
        read-only view.

        A pixel's value is the same, bit for bit, in every rect. Interpolated areas are right to
        1e-6.
        """
        return self.over(rect)(rect).values(rect.width)

    def over(self, core: Rect) -> Callable[[Rect], AreaLines]:
        """A function from a rect inside `core` to the areas of its cells. The lattice is computed
        once, here."""
        if self._north_up:
            return self._zone_lines
        if self._node_step_px == 1:
            return self._exact_lines
        return partial(self._lattice_lines, self._nodes(core))

    def total_m2(self) -> float:
        """Area of the whole scene, m2: exact on north-up geographic grids, else to about 1 %."""
        if self._north_up:
            step = self._height / min(self._height, 4096)
            rows = np.arange(min(self._height, 4096)) * step
            return float(self._zones(rows, step).sum()) * self._width
        counts = [
            int(min(side, 64, max(4, side * self._pixel_m / 50e3)))
            for side in (self._width, self._height)
        ]
        cols, rows = np.meshgrid(
            (np.arange(counts[0]) + 0.5) * self._width / counts[0],
            (np.arange(counts[1]) + 0.5) * self._height / counts[1],
        )
        mean_m2 = np.nan_to_num(self._element(cols.ravel(), rows.ravel())).mean()
        return float(mean_m2) * self._width * self._height

    def _zones(self, rows: np.ndarray, height: float) -> np.ndarray:
        """The areas of cells one column wide, from `rows` to `rows + height`, m2.

        The zone between two parallels is the difference of the authalic function q (Snyder 1987,
        3-12) times the longitude step. Written without cancellation: sin(u) - sin(v) by the half
        difference, atanh(u) - atanh(v) = atanh((u - v) / (1 - u * v)).
        """
        a, _, _, _, e, f = self._transform
        angle, e2 = self._crs.angle_rad, self._crs.e2
        pole = math.pi / 2
        mid = (f + e * (rows + height / 2)) * angle
        half = np.full_like(mid, abs(e) * height / 2 * angle)
        low, high = np.clip(mid - half, -pole, pole), np.clip(mid + half, -pole, pole)
        clamped = (low != mid - half) | (high != mid + half)
        mid = np.where(clamped, (high + low) / 2, mid)
        half = np.where(clamped, (high - low) / 2, half)
        s0, s1, ds = np.sin(low), np.sin(high), 2 * np.cos(mid) * np.sin(half)
        ecc = math.sqrt(e2)
        dq = ds * (1 + e2 * s0 * s1) / ((1 - e2 * s0**2) * (1 - e2 * s1**2))
        dq += np.arctanh(ecc * ds / (1 - e2 * s0 * s1)) / ecc
        area_m2: np.ndarray = self._crs.a_m**2 * (1 - e2) / 2 * dq * abs(a) * angle
        return area_m2

    def _zone_lines(self, rect: Rect) -> AreaLines:
        rows = np.arange(rect.row_off, rect.row_end, dtype=np.float64)
        return lines_of(self._zones(rows, 1.0)[:, None])

    def _exact_lines(self, rect: Rect) -> AreaLines:
        rows, cols = np.mgrid[rect.row_off : rect.row_end, rect.col_off : rect.col_end]
        return lines_of(self._exact(cols.ravel(), rows.ravel()).reshape(rect.height, rect.width))

    def _nodes(self, core: Rect) -> Nodes:
        n = self._node_step_px
        first_col, first_row = core.col_off // n, core.row_off // n
        cols = np.arange(first_col, (core.col_end - 1) // n + 2) * float(n)
        rows = np.arange(first_row, (core.row_end - 1) // n + 2) * float(n)
        grid_cols, grid_rows = (axis.ravel() for axis in np.meshgrid(cols, rows))
        m2 = np.empty(grid_cols.size)
        for start in range(0, m2.size, CHUNK_POINTS):
            part = slice(start, start + CHUNK_POINTS)
            m2[part] = self._element(grid_cols[part], grid_rows[part])
        return Nodes(first_col, first_row, m2.reshape(len(rows), len(cols)))

    def _lattice_lines(self, lattice: Nodes, rect: Rect) -> AreaLines:
        n = self._node_step_px
        cols, rows = np.arange(rect.col_off, rect.col_end), np.arange(rect.row_off, rect.row_end)
        first, last = rect.row_off // n, (rect.row_end - 1) // n + 1
        left, top = cols // n - lattice.first_col, rows // n - first
        right_share, low_share = (cols % n + 0.5) / n, (rows % n + 0.5) / n
        nodes = lattice.m2[first - lattice.first_row : last - lattice.first_row + 1]
        lines = nodes[:, left] + right_share * (nodes[:, left + 1] - nodes[:, left])
        areas = AreaLines(lines[:-1], lines[1:] - lines[:-1], top, low_share)
        outside = np.isnan(nodes)
        if not outside[:, left[0] : left[-1] + 2].any():
            return areas
        area_m2 = np.array(areas.values(rect.width))
        bad = outside[:-1, :-1] * 1 + outside[1:, :-1] + outside[:-1, 1:] + outside[1:, 1:]
        bad = bad[top[:, None], left]
        area_m2[bad == 4] = 0.0
        mixed = np.nonzero((bad > 0) & (bad < 4))
        area_m2[mixed] = self._exact(cols[mixed[1]], rows[mixed[0]])
        return lines_of(area_m2)

    def _exact(self, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The areas of single pixels, without the lattice, m2."""
        shifts = (0.0,) if self._pixel_m <= MAX_POINT_PIXEL_M else (-GAUSS_PX, GAUSS_PX)
        area_m2 = np.zeros(cols.shape)
        for start in range(0, cols.size, CHUNK_POINTS):
            part = slice(start, start + CHUNK_POINTS)
            for down in shifts:
                for across in shifts:
                    at = cols[part] + (0.5 + across), rows[part] + (0.5 + down)
                    area_m2[part] += np.nan_to_num(self._element(*at))
        return area_m2 / len(shifts) ** 2

    def _element(self, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The area element at points of the grid, m2 per pixel: |dP/dcol x dP/drow|; NaN outside
        the domain. P is the place in space (ECEF), which has no singularity at the poles or the
        dateline."""
        h = DIFFERENCE_M / self._pixel_m
        zero = np.zeros_like(cols)
        cols = np.stack([cols + h, cols - h, cols + zero, cols + zero, cols + zero])
        rows = np.stack([rows + zero, rows + zero, rows + h, rows - h, rows + zero])
        a, b, c, d, e, f = self._transform
        x, y = a * cols + b * rows + c, d * cols + e * rows + f
        east, west, south, north = self._ecef(x[:4], y[:4])
        (ux, uy, uz), (vx, vy, vz) = east - west, south - north
        cross = np.sqrt(
            (uy * vz - uz * vy) ** 2 + (uz * vx - ux * vz) ** 2 + (ux * vy - uy * vx) ** 2
        )
        return np.where(self._crs.inside(x[4], y[4]), cross / (4 * h * h), np.nan)

    def _ecef(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Places in space (k, 3, n), meters, of coordinates (k, n); NaN outside the domain."""
        lon, lat = self._crs.lonlat(x.ravel(), y.ravel())
        sin_lat, cos_lat = np.sin(lat), np.cos(lat)
        normal_m = self._crs.a_m / np.sqrt(1 - self._crs.e2 * sin_lat**2)
        xyz = [
            normal_m * cos_lat * np.cos(lon),
            normal_m * cos_lat * np.sin(lon),
            normal_m * (1 - self._crs.e2) * sin_lat,
        ]
        return np.stack([axis.reshape(x.shape) for axis in xyz], axis=1)

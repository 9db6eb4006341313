"""Areas of pixel cells on the ellipsoid. Knows grids and CRS; no scene, file, class or mask.

One of the two doors to pyproj; the other, `footprint`, stands on this one. A CRS is taken to its
own ellipsoid, never to another datum: one operation for every point, smooth enough to be
differentiated. Datum shifts are all but isometric, so that WGS 84 areas differ by some 1e-5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyproj
import pyproj.network

from pipeline.scene import Affine6, Rect

WGS84_A_M = 6378137.0
WGS84_F = 1 / 298.257223563
MAX_NODE_STEP_PX = 64
MAX_NODE_STEP_M = 10000.0
"""Bilinear interpolation errs by h**2 / 8 * f'' (f'' <= 4 for Mercator): 1.2e-6 of the area."""
MAX_POINT_PIXEL_M = 16000.0
"""Above it the area element at a pixel's centre is off by over 1e-6: four Gauss points then."""
DIFFERENCE_M = 100.0
"""Half-width of a difference: PROJ's iterative inverses err by up to 4e-6 m, a chord by 1e-10."""
WRAPPED_M = 1000.0
"""A point that comes back from the ellipsoid farther off than this was outside the domain."""
CHUNK_POINTS = 65536
GAUSS_PX = 0.5 / math.sqrt(3.0)


@dataclass(frozen=True)
class Ground:
    """A CRS as the way from its coordinates to longitude and latitude on its own ellipsoid."""

    transformer: pyproj.Transformer | None
    """None where the coordinates are longitude and latitude already."""
    angle_rad: float
    """Unit of the longitudes and latitudes, in radians (degrees, but grads in France)."""
    unit_m: float
    """Unit of the coordinates in metres; on geographic grids the length on the equator."""
    a_m: float
    e2: float
    """The ellipsoid; WGS 84 for spheres, whose latitudes are geodetic by convention (MODIS)."""
    cylindrical: bool
    """Every x is a meridian, and the CRS goes on beyond the dateline."""

    def lonlat(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitudes and latitudes in radians, NaN where there are none."""
        lon, lat = (x, y) if self.transformer is None else self.transformer.transform(x, y)
        lon, lat = lon * self.angle_rad, lat * self.angle_rad
        good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= math.pi / 2 + 1e-12)
        return np.where(good, lon, np.nan), np.where(good, lat, np.nan)

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Bool: the point lies in the domain, i.e. its longitude and latitude lead back to it."""
        lon, lat = self.lonlat(x, y)
        good = np.isfinite(lat)
        if self.transformer is None or self.cylindrical:
            return good
        back_x, back_y = self.transformer.transform(
            np.where(good, lon, 0.0) / self.angle_rad,
            np.where(good, lat, 0.0) / self.angle_rad,
            direction="INVERSE",
        )
        off_m = np.maximum(np.abs(back_x - x), np.abs(back_y - y)) * self.unit_m
        return good & (off_m < WRAPPED_M)


@lru_cache(maxsize=256)
def ground(crs: str) -> Ground:
    """The Ground of what CRS.from_user_input takes. ValueError where it has no place on Earth."""
    pyproj.network.set_network_enabled(False)
    try:
        horizontal = pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"crs {crs!r}: pyproj does not know it ({reason})") from error
    if horizontal.is_compound:
        horizontal = horizontal.sub_crs_list[0]
    horizontal = (horizontal.source_crs or horizontal) if horizontal.is_bound else horizontal
    geographic = horizontal.is_geographic and not horizontal.is_derived
    base = horizontal if geographic else horizontal.source_crs
    if base is None or not base.is_geographic or horizontal.ellipsoid is None:
        raise ValueError(
            f"crs {crs!r} ({horizontal.type_name}) has no longitudes and latitudes behind it;"
            " give the raster a geographic or projected CRS"
        )
    a_m, inverse_f = horizontal.ellipsoid.semi_major_metre, horizontal.ellipsoid.inverse_flattening
    a_m, f = (a_m, 1 / inverse_f) if inverse_f else (WGS84_A_M, WGS84_F)
    unit = horizontal.axis_info[0].unit_conversion_factor
    transformer = None
    if not geographic:
        transformer = pyproj.Transformer.from_crs(horizontal, base, always_xy=True)
    return Ground(
        transformer=transformer,
        angle_rad=base.axis_info[0].unit_conversion_factor,
        unit_m=unit * WGS84_A_M if horizontal.is_geographic else unit,
        a_m=a_m,
        e2=f * (2 - f),
        cylindrical=transformer is not None and _meridians_are_columns(transformer, unit),
    )


def _meridians_are_columns(transformer: pyproj.Transformer, unit: float) -> bool:
    x, y = np.array([1e6, 1e6]) / unit, np.array([0.0, 3e6]) / unit
    lon, _ = transformer.transform(x, y)
    return bool(np.isfinite(lon).all() and abs(lon[1] - lon[0]) < 1e-9)


class CellAreas:
    """WGS 84 ellipsoidal area of each pixel cell of one scene's grid."""

    def __init__(self, crs: str, transform: Affine6, width: int, height: int) -> None:
        """Takes the scene's own grid. ValueError where the CRS has no place on Earth."""
        self._ground = ground(crs)
        self._transform = transform
        self._width, self._height = width, height
        a, b, _, d, e, _ = transform
        self._pixel_m = max(math.hypot(a, d), math.hypot(b, e)) * self._ground.unit_m
        if not (math.isfinite(self._pixel_m) and self._pixel_m > 0):
            raise ValueError(f"transform {transform} gives pixels no size; georeference the raster")
        self._north_up = self._ground.transformer is None and b == 0 and d == 0
        self._node_step_px = MAX_NODE_STEP_PX
        while self._node_step_px > 1 and self._node_step_px * self._pixel_m > MAX_NODE_STEP_M:
            self._node_step_px //= 2

    def of(self, rect: Rect) -> np.ndarray:
        """Area of the cells of `rect`: float64 (height, width), m2; 0.0 outside the domain.

        A pixel's value is the same, bit for bit, whichever rect asks for it. May be a read-only
        view. Inside the lattice's cells the area is right to 1e-6.
        """
        if self._north_up:
            rows = np.arange(rect.row_off, rect.row_end, dtype=np.float64)
            return np.broadcast_to(self._zones(rows, 1.0)[:, None], (rect.height, rect.width))
        if self._node_step_px == 1:
            rows, cols = np.mgrid[rect.row_off : rect.row_end, rect.col_off : rect.col_end]
            return self._exact(cols.ravel(), rows.ravel()).reshape(rect.height, rect.width)
        return self._interpolated(rect)

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
        """Area of one column's cells from `rows` to `rows + height`.

        The zone between two parallels is the difference of the authalic function q (Snyder 1987,
        3-12) times the longitude step. Written so that nothing cancels: sin(u) - sin(v) by the
        half difference, atanh(u) - atanh(v) = atanh((u - v) / (1 - u * v)).
        """
        a, _, _, _, e, f = self._transform
        angle, e2 = self._ground.angle_rad, self._ground.e2
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
        area_m2: np.ndarray = self._ground.a_m**2 * (1 - e2) / 2 * dq * abs(a) * angle
        return area_m2

    def _interpolated(self, rect: Rect) -> np.ndarray:
        n = self._node_step_px
        cols, rows = np.arange(rect.col_off, rect.col_end), np.arange(rect.row_off, rect.row_end)
        first_col, first_row = rect.col_off // n, rect.row_off // n
        node_cols = np.arange(first_col, (rect.col_end - 1) // n + 2) * float(n)
        node_rows = np.arange(first_row, (rect.row_end - 1) // n + 2) * float(n)
        grid_cols, grid_rows = np.meshgrid(node_cols, node_rows)
        nodes = self._element(grid_cols.ravel(), grid_rows.ravel()).reshape(grid_cols.shape)
        left, top = cols // n - first_col, rows // n - first_row
        right_share, low_share = (cols % n + 0.5) / n, (rows % n + 0.5) / n
        lines = nodes[:, left] + right_share * (nodes[:, left + 1] - nodes[:, left])
        area_m2 = np.empty((rect.height, rect.width))
        for k in range(len(lines) - 1):
            part = slice(*np.searchsorted(top, (k, k + 1)))
            np.multiply(low_share[part, None], lines[k + 1] - lines[k], out=area_m2[part])
            area_m2[part] += lines[k]
        outside = np.isnan(nodes)
        if outside.any():
            bad = outside[:-1, :-1] * 1 + outside[1:, :-1] + outside[:-1, 1:] + outside[1:, 1:]
            bad = bad[top[:, None], left]
            area_m2[bad == 4] = 0.0
            mixed = np.nonzero((bad > 0) & (bad < 4))
            area_m2[mixed] = self._exact(cols[mixed[1]], rows[mixed[0]])
        return area_m2

    def _exact(self, cols: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Area of single pixels without the lattice."""
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
        """m2 per pixel at points of the grid: |dP/dcol x dP/drow|; NaN outside the domain.

        P is the place in space (ECEF), which has no singularity at the poles or the dateline.
        """
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
        return np.where(self._ground.inside(x[4], y[4]), cross / (4 * h * h), np.nan)

    def _ecef(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(k, n) coordinates -> (k, 3, n) metres; NaN outside the domain."""
        lon, lat = self._ground.lonlat(x.ravel(), y.ravel())
        sin_lat, cos_lat = np.sin(lat), np.cos(lat)
        normal_m = self._ground.a_m / np.sqrt(1 - self._ground.e2 * sin_lat**2)
        xyz = [
            normal_m * cos_lat * np.cos(lon),
            normal_m * cos_lat * np.sin(lon),
            normal_m * (1 - self._ground.e2) * sin_lat,
        ]
        return np.stack([axis.reshape(x.shape) for axis in xyz], axis=1)

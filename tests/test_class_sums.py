"""Pixels and areas of classes: the compiled loop gives numpy's sums, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.earth.area import AreaLines, CellAreas, lines_of
from pipeline.output.class_sums import plain_sums
from pipeline.output.class_sums_compiled import compiled_sums
from pipeline.scene import Affine6, Rect
from pipeline.unit import mask_dtype, nodata_value

GRIDS: dict[str, tuple[str, Affine6]] = {
    "geographic": ("EPSG:4326", (1e-3, 0, 10, 0, -1e-3, 60)),
    "beyond the pole": ("EPSG:4326", (1e-2, 0, 10, 0, -1e-2, 90.4)),
    "UTM": ("EPSG:32633", (10, 0, 2e5, 0, -10, 6.2e6)),
    "turned": ("EPSG:32633", (8.66, 5.0, 2e5, 5.0, -8.66, 6.2e6)),
    "edge of the world": ("EPSG:8857", (300, 0, -17.3e6, 0, -300, 300e3)),
    "each pixel for itself": ("EPSG:3413", (6000, 0, -2e6, 0, -6000, 1e6)),
}


def ids(rng: np.random.Generator, rect: Rect, classes: int) -> np.ndarray:
    """Class ids in runs of random lengths, with nodata."""
    values = rng.integers(0, classes, rect.pixels)
    values[rng.random(rect.pixels) < 0.1] = nodata_value(classes)
    runs = np.repeat(values, rng.geometric(rng.choice([1.0, 0.2, 0.01]), rect.pixels))
    return runs[: rect.pixels].reshape(rect.height, rect.width).astype(mask_dtype(classes))


def check(ids_HW: np.ndarray, areas: AreaLines | None, classes: int) -> int:
    """Assert that both functions agree; returns the number of pixels without an area."""
    plain, compiled = plain_sums(ids_HW, areas, classes), compiled_sums(ids_HW, areas, classes)
    for a_K, b_K in zip(plain, compiled, strict=True):
        assert a_K.dtype == b_K.dtype
        assert a_K.shape == (classes,)
        assert a_K.tobytes() == b_K.tobytes()
    occurring = ids_HW[ids_HW != nodata_value(classes)]
    assert plain.pixels_K.sum() == occurring.size
    return int(plain.without_area_K.sum())


@settings(max_examples=60, deadline=None)
@given(
    grid=st.sampled_from(list(GRIDS)),
    rect=st.builds(
        Rect, st.integers(0, 900), st.integers(0, 900), st.integers(1, 200), st.integers(1, 90)
    ),
    classes=st.sampled_from([1, 2, 19, 255, 256, 300]),
    seed=st.integers(0, 2**32 - 1),
)
def test_compiled_sums_are_those_of_numpy_bit_for_bit(
    grid: str, rect: Rect, classes: int, seed: int
) -> None:
    areas = CellAreas(*GRIDS[grid], 2000, 2000).over(rect)(rect)
    ids_HW = ids(np.random.default_rng(seed), rect, classes)
    check(ids_HW, areas, classes)
    assert check(ids_HW, None, classes) == 0


@pytest.mark.parametrize(
    ("grid", "rect"),
    [("edge of the world", Rect(0, 0, 500, 500)), ("beyond the pole", Rect(0, 0, 60, 60))],
)
def test_pixels_without_an_area_are_counted(grid: str, rect: Rect) -> None:
    areas = CellAreas(*GRIDS[grid], 2000, 2000).over(rect)(rect)
    assert check(ids(np.random.default_rng(3), rect, 5), areas, 5) > 0


def test_a_cell_between_others_may_have_no_area() -> None:
    area_m2 = np.ones((40, 30))
    area_m2[[0, 7, 39], [29, 0, 5]] = 0
    ids_HW = np.random.default_rng(1).integers(0, 2, area_m2.shape).astype(np.uint8)
    assert check(ids_HW, lines_of(area_m2), 2) == 3

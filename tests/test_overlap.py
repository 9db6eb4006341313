"""Scenes that cover the same ground are noted, with the share of the area that is counted again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from pipeline.api import plan, run
from pipeline.driver.overlap_note import overlap_note
from pipeline.earth import overlap as overlap_module
from pipeline.earth.equal_area import Grid
from pipeline.earth.overlap import NO_OVERLAP, Overlap, overlap
from pipeline.scene import Scene
from pipeline.settings import Execution, Settings
from tests.support.archives import write_scene
from tests.support.outputs import receipts
from tests.support.rasters import scene_of

UTM = "EPSG:32633"


def grid(x: float, y: float, side_m: float, px_m: float = 10, crs: str = UTM) -> Grid:
    """A square whose upper left corner is at x, y."""
    return Grid(crs, (px_m, 0, x, 0, -px_m, y), round(side_m / px_m), round(side_m / px_m))


def tiling(count: int, step_m: float, side_m: float, crs: str = UTM) -> list[Grid]:
    """count x count squares in rows."""
    at = [(3e5 + step_m * i, 5e6 - step_m * j) for j in range(count) for i in range(count)]
    return [grid(x, y, side_m, crs=crs) for x, y in at]


def compared(*grids: Grid) -> Overlap:
    """The overlap, which must not depend on the order."""
    there, back = overlap(grids), overlap(grids[::-1])
    assert there.count == back.count
    assert there.share == pytest.approx(back.share, abs=0.02)
    return there


def test_one_image_in_three_resolutions_is_counted_three_times() -> None:
    result = compared(*(grid(5e5, 5e6, 3000, px_m) for px_m in (10, 20, 60)))
    assert (result.count, result.first) == (3, (0, 1))
    assert result.share == pytest.approx(2 / 3)
    assert result.area == pytest.approx(3 * 9e6 / 6.371e6**2, rel=0.01)


@pytest.mark.parametrize("crs", [UTM, "EPSG:32733", "EPSG:3857", "EPSG:5070"])
@pytest.mark.parametrize(
    ("step_m", "side_m"),
    [(2560, 2560), (2560, 2600), (100_000, 109_800)],  # exact, with a frame, Sentinel-2
)
def test_neighbours_of_a_regular_tiling_do_not_overlap(
    crs: str, step_m: float, side_m: float
) -> None:
    assert compared(*tiling(4, step_m, side_m, crs)).first is None


def test_tiles_of_neighbouring_zones_overlap() -> None:
    """Sentinel-2's 33UUP and 32UQU: at this latitude zones are narrower than the tiles that fill
    them."""
    one = grid(300_000, 5_400_000, 109_800)
    other = grid(700_000, 5_400_000, 109_800, crs="EPSG:32632")
    assert compared(one, other).first == (0, 1)


@pytest.mark.parametrize(
    "other",
    [
        grid(500_500, 5e6, 1000),  # half of each
        grid(500_950, 5e6, 1000),  # too little
        grid(500_400, 4_999_600, 200, 5),  # inside
        grid(501_000, 5e6, 1000),  # beside
        Grid(UTM, (7, 7, 500_300, 7, -7, 5e6), 100, 100),  # turned
        Grid(UTM, (7, 7, 500_500, 7, -7, 4_998_700), 100, 100),  # only its box meets
        Grid(UTM, (-10, 0, 501_000, 0, 10, 4_999_000), 100, 100),  # upside down
        Grid(UTM, (0, 10, 500_000, -10, 0, 5e6), 100, 100),  # lying on its side
    ],
)
def test_two_squares_share_what_shapely_says(other: Grid) -> None:
    assert_as_shapely_says([grid(5e5, 5e6, 1000), other])


def test_random_squares_share_what_shapely_says() -> None:
    grids = []
    for x, y, size, turn in np.random.default_rng(3).random((60, 4)):
        px_m, angle = 2 + 6 * size, turn * np.pi * (size > 0.5)
        a, d = px_m * np.cos(angle), px_m * np.sin(angle)
        grids.append(Grid(UTM, (a, d, 5e5 + 4000 * x, d, -a, 5e6 - 4000 * y), 100, 100))
    assert 0 < assert_as_shapely_says(grids) < len(grids)


def assert_as_shapely_says(grids: list[Grid]) -> int:
    """Compare every square with every other one in the plane of UTM; return how many overlap."""
    squares = [square(one) for one in grids]
    expected = {
        i
        for i, one in enumerate(squares)
        for j, other in enumerate(squares)
        if i != j and one.intersection(other).area >= 0.1 * min(one.area, other.area)
    }
    result = compared(*grids)
    assert result.count == len(expected)
    if expected:
        total = sum(one.area for one in squares)
        share = 1 - shapely.union_all(squares).area / total
        assert result.share == pytest.approx(share, abs=0.02)
    return len(expected)


def square(one: Grid) -> shapely.Polygon:
    a, b, c, d, e, f = one.transform
    corners = [(0, 0), (one.width, 0), (one.width, one.height), (0, one.height)]
    return shapely.Polygon([(a * x + b * y + c, d * x + e * y + f) for x, y in corners])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (grid(5e5, 5e6, 5000), grid(1_669_792, 5_645_716, 7080, crs="EPSG:3857")),
        (grid(179, 51, 2, 0.1, "EPSG:4326"), grid(-181, 51, 2, 0.1, "EPSG:4326")),
        (grid(-1e6, 1e6, 2e6, 1e4, "EPSG:3031"), grid(-1e6, 1e6, 2e6, 4e4, "EPSG:3031")),
        (grid(-1e5, 1e5, 2e5, 1e4, "EPSG:3413"), grid(-1e5, 1e5, 2e5, 2e4, "EPSG:3413")),
        (grid(5e5, 5e6, 5000, crs="EPSG:32733"), grid(5e5, 5e6, 5000, 20, "EPSG:32733")),
        (
            Grid("EPSG:4326", (1, 0, -180, 0, -1, 90), 360, 180),
            Grid("EPSG:4326", (0.5, 0, -180, 0, -0.5, 90), 720, 360),
        ),
        (grid(5e5, 500, 1000), grid(5e5, 500, 1000, 20)),  # on the equator
        (grid(0, 0, 0.05, 0.001), grid(0, 0, 0.05, 0.002)),  # a lab bench
    ],
)
def test_other_projections_datelines_and_poles(one: Grid, other: Grid) -> None:
    result = compared(one, other)
    assert result.count == 2
    assert result.share == pytest.approx(0.5, abs=0.02)


def degrees(px: float, west: float, north: float, width: int, height: int) -> Grid:
    return Grid("EPSG:4326", (px, 0, west, 0, -px, north), width, height)


@pytest.mark.parametrize(
    "wide",
    [
        degrees(0.01, -25, 72, 7000, 3700),  # Europe
        degrees(0.1, -180, 90, 3600, 1800),  # the Earth
        degrees(0.1, -180, 90, 3600, 400),  # its northern cap
        degrees(0.1, -30, 38, 700, 40),  # a band
    ],
)
@pytest.mark.parametrize("north", [37.5, 61])
def test_a_scene_inside_a_wide_grid_overlaps_it(wide: Grid, north: float) -> None:
    _, _, _, _, down, top = wide.transform
    inside = top > north > top + down * wide.height
    scene = degrees(0.001, 10, north, 1000, 1000)
    assert compared(wide, scene).count == (2 if inside else 0)
    assert compared(wide, scene, degrees(0.001, 11, north, 1000, 1000)).count == 3 * inside


def test_neighbours_of_a_tiling_in_degrees_do_not_overlap() -> None:
    for step in (1, 5, 30):
        tiles = [degrees(step / 10, w, n, 10, 10) for w in range(0, 90, step) for n in (60, 90)]
        assert compared(*tiles).first is None, step


def test_grids_without_a_place_overlap_none() -> None:
    lost = grid(1e9, 1e9, 1000)
    vertical = grid(5e5, 5e6, 1000, crs="EPSG:5773")
    assert overlap([lost, lost, vertical, vertical]) == NO_OVERLAP
    assert overlap([]) == NO_OVERLAP
    assert overlap([grid(5e5, 5e6, 1000), lost]).count == 0


def test_too_many_pairs_are_not_all_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = tiling(12, 100, 2000)
    whole = overlap(crowd)
    assert (whole.count, whole.at_least) == (144, False)
    monkeypatch.setattr(overlap_module, "MAX_PAIRS", 2000)
    monkeypatch.setattr(overlap_module, "CHUNK_PAIRS", 200)
    part = overlap(crowd)
    assert part.at_least
    assert 0 < part.count <= 144
    assert part.share == pytest.approx(whole.share, abs=0.1)
    monkeypatch.undo()
    monkeypatch.setattr(overlap_module, "MAX_GRIDS", 100)
    assert (overlap(crowd).count, overlap(crowd).at_least) == (100, True)


def scenes(tmp_path: Path, *days: str | None) -> list[Scene]:
    scene = scene_of(write_scene(tmp_path / "a.tif", 64, 64), Settings())
    return [replace(scene, url=f"{n}.tif", datetime=day) for n, day in enumerate(days)]


def test_the_note_says_how_many_and_which(tmp_path: Path) -> None:
    assert list(overlap_note(scenes(tmp_path, None, None, "2020-01-01T10:00:00"))) == [
        "the footprints of 2 inputs overlap, first 0.tif and 1.tif: 33% of the area of all inputs"
        " is ground that is counted again; leave copies of one image out, or do not sum areas over"
        " scenes"
    ]


@pytest.mark.parametrize(
    ("days", "count"),
    [
        (("2020-01-01T10:00:00", "2020-01-06T10:00:00"), 0),  # a series in time
        (("2020-01-01T10:00:00", "2020-01-01T10:00:03"), 2),  # pictures of one flight
        ((None, "2020-01-01T10:00:00"), 0),
        ((None,), 0),
    ],
)
def test_only_scenes_of_one_day_are_compared(
    tmp_path: Path, days: tuple[str | None, ...], count: int
) -> None:
    notes = list(overlap_note(scenes(tmp_path, *days)))
    assert [f"of {count} inputs overlap" in note for note in notes] == [True] * (count > 0)


def test_scenes_without_any_area_are_not_noted(tmp_path: Path) -> None:
    """Nothing that is described is as small; what is divided by is not left to that."""
    a, *_ = scenes(tmp_path, None)
    tiny = replace(a, crs="EPSG:4326", transform=(1e-30, 0, 10, 0, -1e-30, 50))
    assert list(overlap_note([tiny, tiny])) == []


def test_plan_run_and_receipt_note_copies(tmp_path: Path, small_checkpoint: str) -> None:
    for name in ("a.tif", "b.tif"):
        write_scene(tmp_path / "in" / name, 64, 64)
    settings, execution = Settings(window=64, stride=48, batch=2), Execution(runner="local")
    arguments = ([str(tmp_path / "in")], small_checkpoint)
    out = str(tmp_path / "out")
    start = f"the footprints of 2 inputs overlap, first {tmp_path}/in/a.tif and {tmp_path}/in/b"
    for notes in (
        plan(*arguments, settings, execution, out).notes,
        run(*arguments, out, settings, execution).notes,
        run(*arguments, out, settings, execution).notes,  # nothing is left to do
        *(receipt["notes"] for receipt in receipts(out)),
    ):
        assert len([note for note in notes if note.startswith(start)]) == 1

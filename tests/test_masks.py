"""A scene's mask read back from the tables: the published ids, damage, and the bytes read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UsageError
from pipeline.grid import mask_tiles
from pipeline.output.layout import Output, table_path
from pipeline.output.masks import SceneMask, scene_masks
from pipeline.scene import Rect
from tests.support.outputs import mask_by_rows
from tests.support.published_masks import (
    TRANSFORM,
    create,
    opened_mask,
    publish_maps,
    random_ids,
    shard_of,
    whole_masks,
)


@st.composite
def rects(draw: st.DrawFn, width: int, height: int) -> Rect:
    left, right = sorted(draw(st.sets(st.integers(0, width), min_size=2, max_size=2)))
    top, bottom = sorted(draw(st.sets(st.integers(0, height), min_size=2, max_size=2)))
    return Rect(left, top, right - left, bottom - top)


def cut(ids_HW: np.ndarray, rect: Rect) -> np.ndarray:
    return ids_HW[rect.row_off : rect.row_end, rect.col_off : rect.col_end]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_window_of_any_scene_is_what_was_published(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    classes = data.draw(st.sampled_from([5, 300]))
    sides, seed = st.integers(1, 1600), data.draw(st.integers(0, 10**6))
    sizes = data.draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3))
    maps = {f"{n}.tif": random_ids(*size, classes, seed + n) for n, size in enumerate(sizes)}
    output = create(tmp_path_factory.mktemp("masks") / "out", classes)
    shards = data.draw(st.integers(1, len(maps)))
    for number in range(shards):
        publish_maps(output, f"{number:06d}", dict(list(maps.items())[number::shards]))
    for name, ids_HW in maps.items():
        height, width = ids_HW.shape
        with SceneMask.open(output, name) as mask:
            assert (mask.width, mask.height) == (width, height)
            assert (mask.crs, mask.transform, mask.status) == ("EPSG:32633", TRANSFORM, "done")
            assert mask.dtype == ids_HW.dtype
            assert mask.nodata == np.iinfo(ids_HW.dtype).max
            for rect in data.draw(st.lists(rects(width, height), min_size=1, max_size=4)):
                window_HW = mask.read(rect)
                assert window_HW.dtype == ids_HW.dtype
                assert np.array_equal(window_HW, cut(ids_HW, rect)), rect
    whole = {mask.scene_id: mask.read(mask.rect) for mask in scene_masks(output)}
    assert whole.keys() == maps.keys()
    assert all(np.array_equal(whole[name], ids_HW) for name, ids_HW in maps.items())


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Output, np.ndarray]:
    """An output of three shards, and the ids of its scene b.tif of 1300 x 2100 pixels."""
    output = create(tmp_path / "out")
    ids_HW = random_ids(1300, 2100, 5, seed=1)
    for number, maps in enumerate(
        [{"a.tif": random_ids(300, 200, 5, 2)}, {"b.tif": ids_HW}, {"c.tif": ids_HW[:9, :9]}]
    ):
        publish_maps(output, f"{number:06d}", maps)
    return output, ids_HW


def test_the_mask_equals_the_tiles_read_by_another_reader(scene: tuple[Output, np.ndarray]) -> None:
    output, ids_HW = scene
    by_rows = mask_by_rows(output.store.root, "b.tif", 1300, 2100)
    with SceneMask.open(output, "b.tif") as mask:
        assert np.array_equal(mask.read(mask.rect), by_rows)
    assert np.array_equal(ids_HW, by_rows)


@pytest.mark.parametrize("height", [1, 100, 512, 5000])
def test_strips_cover_the_scene(scene: tuple[Output, np.ndarray], height: int) -> None:
    output, ids_HW = scene
    name = {1: "c.tif"}.get(height, "b.tif")
    expected_HW = ids_HW[:9, :9] if height == 1 else ids_HW
    with SceneMask.open(output, name) as mask:
        strips = list(mask.strips(height))
    assert all(rect.width == mask.width and rect.height <= height for rect, _ in strips)
    assert np.array_equal(np.concatenate([ids for _, ids in strips]), expected_HW)


def test_the_tiles_of_a_mask_are_those_with_data(scene: tuple[Output, np.ndarray]) -> None:
    output, ids_HW = scene
    assembled_HW = np.full_like(ids_HW, 255)
    with SceneMask.open(output, "b.tif") as mask:
        rects = set()
        for rect, tile_HW in mask.tiles():
            rects.add(rect)
            assembled_HW[rect.row_off : rect.row_end, rect.col_off : rect.col_end] = tile_HW
    whole = Rect(0, 0, 1300, 2100)
    assert rects == {r for _, _, r in mask_tiles(whole) if (cut(ids_HW, r) != 255).any()}
    assert np.array_equal(assembled_HW, ids_HW)


def test_a_scene_without_a_valid_pixel_is_all_nodata(tmp_path: Path) -> None:
    output = create(tmp_path / "out")
    publish_maps(output, "000000", {"sea.tif": np.full((600, 700), 255, np.uint8)})
    with SceneMask.open(output, "sea.tif") as mask:
        assert list(mask.tiles()) == []
        assert (mask.read(mask.rect) == 255).all()


def test_a_failed_block_is_nodata(tmp_path: Path) -> None:
    output = create(tmp_path / "out")
    ids_HW = np.full((1100, 1100), 3, np.uint8)
    torn = Rect(0, 1024, 1024, 76)
    publish_maps(output, "000000", {"torn.tif": ids_HW}, failing=[torn])
    cut(ids_HW, torn)[:] = 255
    with SceneMask.open(output, "torn.tif") as mask:
        assert mask.status == "partial"
        assert np.array_equal(mask.read(mask.rect), ids_HW)


@pytest.mark.parametrize(
    "rect",
    [Rect(0, 0, 0, 5), Rect(-1, 0, 5, 5), Rect(1299, 0, 2, 5), Rect(0, 2100, 5, 1)],
    ids=str,
)
def test_a_window_outside_the_scene_is_refused(
    scene: tuple[Output, np.ndarray], rect: Rect
) -> None:
    with (
        SceneMask.open(scene[0], "b.tif") as mask,
        pytest.raises(UsageError, match=r"b.tif: .* not inside the scene of 1300x2100 px; ask for"),
    ):
        mask.read(rect)


def test_scenes_without_a_mask_are_refused_with_a_remedy(tmp_path: Path) -> None:
    output = create(tmp_path / "out")
    maps = {"good.tif": np.zeros((9, 9), np.uint8), "torn.tif": np.zeros((9, 8), np.uint8)}
    publish_maps(output, "000000", maps, rejected=["text.tif"], failing=[Rect(0, 0, 8, 9)])
    output.append([shard_of("000001", {"later.tif": maps["good.tif"]})])
    with pytest.raises(UsageError, match=r"torn.tif is in quarantine .*torn\); fix the input"):
        SceneMask.open(output, "torn.tif")
    with pytest.raises(UsageError, match=r"text.tif .*no header.* --retry-quarantined"):
        SceneMask.open(output, "text.tif")
    with pytest.raises(UsageError, match=r"later.tif is not published yet; `swath run --job .*out"):
        SceneMask.open(output, "later.tif")
    with pytest.raises(UsageError, match=r"no scene good; `swath query .* FROM scenes\"` lists"):
        SceneMask.open(output, "good")
    assert [mask.scene_id for mask in scene_masks(output)] == ["good.tif"]


def test_a_published_table_that_is_missing_is_refused_by_name(
    scene: tuple[Output, np.ndarray],
) -> None:
    output, _ = scene
    output.store.delete(table_path("masks", "000001"))
    with pytest.raises(UsageError, match=r"masks/000001.parquet: this published table is gone"):
        SceneMask.open(output, "b.tif")


def test_a_damaged_table_is_refused_with_its_path_and_a_remedy(
    scene: tuple[Output, np.ndarray],
) -> None:
    output, _ = scene
    remedy = r" is damaged.*put the file back, or delete commits/000001\.json"
    path = table_path("masks", "000001")
    intact = output.store.read(path)
    footer = pq.read_metadata(io.BytesIO(intact)).row_group(0)
    column = next(
        c for c in map(footer.column, range(footer.num_columns)) if c.path_in_schema == "mask"
    )
    page = column.data_page_offset + 200
    small = footer.column(0).data_page_offset
    for damaged in (
        b"",
        intact[: len(intact) // 2],
        intact[:-2000] + bytes(1900) + intact[-100:],
        intact[:page] + bytes(500) + intact[page + 500 :],
        intact[:small] + b"\xff" * 60 + intact[small + 60 :],
    ):
        output.store.write(path, damaged)
        with pytest.raises(UsageError, match=f"out/{path}: .*{remedy}"):
            opened_mask(output, "b.tif")
        with pytest.raises(UsageError, match=remedy):
            whole_masks(output)
    output.store.write(path, intact)
    output.store.write(table_path("scenes", "000001"), b"")
    with pytest.raises(UsageError, match=f"scenes/000001.parquet: .*{remedy}"):
        SceneMask.open(output, "b.tif")


def test_a_refused_table_is_closed(
    scene: tuple[Output, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, _ = scene
    output.store.write(table_path("masks", "000001"), b"no Parquet")
    files: list[BinaryIO] = []
    real_open = output.store.open

    def open_noted(path: str) -> BinaryIO:
        files.append(real_open(path))
        return files[-1]

    monkeypatch.setattr(output.store, "open", open_noted)
    with pytest.raises(UsageError, match="damaged"):
        SceneMask.open(output, "b.tif")
    assert files
    assert all(file.closed for file in files)


def test_a_closed_mask_is_not_called_damaged(scene: tuple[Output, np.ndarray]) -> None:
    output, _ = scene
    masks = list(scene_masks(output))
    with pytest.raises(UsageError, match=r"c.tif: this mask is closed; read it inside its `with`"):
        masks[0].read(masks[0].rect)


class Recording(io.FileIO):
    """A file that counts the bytes read from it."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        self.bytes_read += len(data)
        return data


def test_a_window_reads_one_tile_and_not_the_whole_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = create(tmp_path / "out")
    rng = np.random.default_rng(0)
    ids_HW = rng.integers(0, 5, (26 * 512, 20 * 512), dtype=np.uint8)  # does not compress well
    publish_maps(output, "000000", {"a.tif": ids_HW[:700, :700], "b.tif": ids_HW}, crs=None)
    table_bytes = (tmp_path / "out" / "masks" / "000000.parquet").stat().st_size
    assert table_bytes > 40e6
    files: list[Recording] = []

    def open_recording(path: str) -> BinaryIO:
        files.append(Recording(tmp_path / "out" / path))
        return cast(BinaryIO, files[-1])

    monkeypatch.setattr(output.store, "open", open_recording)
    pool, default_pool = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        with SceneMask.open(output, "b.tif") as mask:
            opening_bytes = sum(file.bytes_read for file in files)
            assert opening_bytes < 1e6, "footers and small columns"
            rect = Rect(5000, 5000, 300, 200)
            assert np.array_equal(mask.read(rect), cut(ids_HW, rect))
            window_bytes = sum(file.bytes_read for file in files) - opening_bytes
            assert window_bytes < table_bytes / 2, "one tile, in one of three row groups"
            before_bytes = sum(file.bytes_read for file in files)
            for strip, strip_HW in mask.strips():
                assert np.array_equal(strip_HW, cut(ids_HW, strip))
            strips_bytes = sum(file.bytes_read for file in files) - before_bytes
            assert strips_bytes < 4 * table_bytes, "a read of each row group for each of 4 strips"
    finally:
        pa.set_memory_pool(default_pool)
    assert pool.max_memory() < 80e6, "a row group of masks is 67 MB, and the table twice that"


@pytest.mark.s3
def test_masks_on_s3_are_read_in_ranges(s3_folder: str) -> None:
    output = create(f"{s3_folder}/out")
    maps = {"a.tif": random_ids(1300, 1100, 5, 1), "b.tif": random_ids(700, 700, 5, 2)}
    for number, (name, ids_HW) in enumerate(maps.items()):
        publish_maps(output, f"{number:06d}", {name: ids_HW}, rejected=[f"bad{number}"])
    for name, ids_HW in maps.items():
        with SceneMask.open(output, name) as mask:
            for rect in (mask.rect, Rect(500, 300, 50, 300)):
                assert np.array_equal(mask.read(rect), cut(ids_HW, rect))
    with pytest.raises(UsageError, match="bad1 is in quarantine"):
        SceneMask.open(output, "bad1")
    assert {mask.scene_id for mask in scene_masks(output)} == maps.keys()

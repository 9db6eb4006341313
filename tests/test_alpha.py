"""A fourth band that GDAL calls alpha: alpha, or data such as near infrared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp, Resampling

from pipeline.api import plan, run
from pipeline.doubt import Doubt
from pipeline.errors import UsageError
from pipeline.imagery import alpha
from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Rect, Scene
from pipeline.settings import Execution, Settings
from tests.support.archives import picture, write_scene
from tests.support.outputs import differences
from tests.support.rasters import TILES, doubts_beside_place, noise, scene_of, write_raster

PLAIN = Settings()
LARGE: dict[str, Any] = {**TILES, "compress": "deflate"}


def near_infrared(width: int, height: int) -> np.ndarray:
    """Four bands, the last of which is 0 over water: the upper half."""
    values = noise(4, height, width)
    values[3, : height // 2] = 0
    return values


def orthophoto(width: int, height: int) -> np.ndarray:
    """Four bands, the last of which is 0 outside a slanted rectangle with antialiased edges."""
    rows, cols = np.mgrid[:height, :width]
    distance = np.minimum(cols - width / 8 - rows / 9, width * 7 / 8 - cols - rows / 9)
    values = noise(4, height, width)
    values[3] = np.clip(distance, 0, 1) * 255
    return values


def kinds(scene: Scene) -> list[str]:
    return [doubt.kind for doubt in scene.doubts]


@pytest.mark.parametrize("options", [{}, LARGE, {**LARGE, "interleave": "band"}], ids=str)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (1700, 1300)])
def test_near_infrared_masks_nothing(
    tmp_path: Path, options: dict[str, Any], width: int, height: int
) -> None:
    values = near_infrared(width, height)
    path = write_raster(tmp_path / "a.tif", values, **options)
    with rasterio.open(path) as src:
        assert src.colorinterp[3] == ColorInterp.alpha
    scene = scene_of(path, PLAIN)
    assert (scene.bands, scene.alpha_is_data) == ((1, 2, 3), True)
    (doubt,) = scene.doubts
    assert doubt.kind == "alpha_is_data"
    assert doubt.detail.startswith("band 4: ")
    pixels = read_pixels(scene, scene.rect)
    assert pixels.valid_HW.all()
    np.testing.assert_array_equal(pixels.values_CHW, values[:3])
    four = scene_of(path, PLAIN, channels=4)
    assert four.bands == (1, 2, 3, 4)
    rect = Rect(17, 50, 200, 90)
    part = read_pixels(four, rect)
    assert part.valid_HW.all()
    np.testing.assert_array_equal(part.values_CHW, values[:, 50:140, 17:217])


@pytest.mark.parametrize("options", [{}, LARGE, {"interleave": "band"}], ids=str)
@pytest.mark.parametrize(("width", "height"), [(300, 200), (1700, 1300)])
def test_the_frame_of_an_orthophoto_is_not_data(
    tmp_path: Path, options: dict[str, Any], width: int, height: int
) -> None:
    values = orthophoto(width, height)
    scene = scene_of(write_raster(tmp_path / "a.tif", values, **options), PLAIN)
    assert not scene.alpha_is_data
    pixels = read_pixels(scene, scene.rect)
    np.testing.assert_array_equal(pixels.valid_HW, values[3] != 0)
    assert not pixels.valid_HW.all()
    assert set(kinds(scene)) <= {"alpha_is_band"}  # if the sample has an edge
    with pytest.raises(UsageError, match=r"--alpha data .*--bands 1,2,3,3$"):
        scene_of(tmp_path / "a.tif", PLAIN, channels=4)


def test_alpha_that_is_certain_raises_no_doubt(tmp_path: Path) -> None:
    values = noise(4, 90, 80)
    values[3] = 255
    values[3, :40] = 0
    assert scene_of(write_raster(tmp_path / "a.tif", values), PLAIN).doubts == ()
    values[3] = 255
    assert scene_of(write_raster(tmp_path / "b.tif", values), PLAIN).doubts == ()
    values[3, 0, 0] = 7
    mixed = scene_of(write_raster(tmp_path / "c.tif", values), PLAIN)
    assert [tuple(doubt) for doubt in mixed.doubts] == [
        ("alpha_is_band", "band 4: 0.01% of a sample is neither 0 nor 255")
    ]
    values[3] = 0
    hidden = scene_of(write_raster(tmp_path / "d.tif", values), PLAIN)
    assert [tuple(doubt) for doubt in hidden.doubts] == [
        ("alpha_is_band", "band 4: a sample of it is all 0")
    ]


@pytest.mark.parametrize("share", [0.009, 0.011])
def test_one_percent_decides(tmp_path: Path, share: float) -> None:
    values = noise(4, 100, 100)
    values[3] = 255
    values[3].reshape(-1)[: round(share * 10_000)] = 90
    scene = scene_of(write_raster(tmp_path / "a.tif", values), PLAIN)
    assert scene.alpha_is_data == (share > 0.01)


def test_the_option_decides_without_looking(tmp_path: Path) -> None:
    infrared = write_raster(tmp_path / "a.tif", near_infrared(60, 40))
    ortho = write_raster(tmp_path / "b.tif", orthophoto(60, 40))
    gray = write_raster(tmp_path / "c.tif", orthophoto(60, 40)[2:], alpha="yes")
    sixteen = write_raster(
        tmp_path / "d.tif", orthophoto(60, 40).astype("uint16"), photometric="rgb", alpha="yes"
    )
    for path, channels in ((infrared, 4), (ortho, 4), (gray, 2), (sixteen, 4)):
        with rasterio.open(path) as src:
            masked = src.dataset_mask() != 0
        assert not masked.all()
        scene = scene_of(path, Settings(alpha="data", scale=0.1), channels)
        assert scene.bands == tuple(range(1, channels + 1))
        assert [d for d in scene.doubts if d.kind.startswith("alpha")] == [
            Doubt("alpha_is_data", f"band {channels}, by --alpha data")
        ]
        assert read_pixels(scene, scene.rect).valid_HW.all()
        scene = scene_of(path, Settings(alpha="band", scale=0.1), channels - 1)
        assert scene.bands == tuple(range(1, channels))
        assert [d for d in scene.doubts if d.kind.startswith("alpha")] == [
            Doubt("alpha_is_band", f"band {channels}, by --alpha band")
        ]
        np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, masked)


def test_only_a_fourth_band_of_8_bits_is_judged(tmp_path: Path) -> None:
    soft = noise(5, 40, 60)
    soft[:, :9] = 0
    gray = write_raster(tmp_path / "a.tif", soft[:2], alpha="yes")
    sixteen = write_raster(
        tmp_path / "b.tif", soft[:4].astype("uint16"), photometric="rgb", alpha="yes"
    )
    for path, channels in ((gray, 1), (sixteen, 3)):
        scene = scene_of(path, Settings(scale=0.1), channels)
        assert (scene.alpha_is_data, scene.doubts) == (False, ())
        assert not read_pixels(scene, scene.rect).valid_HW[:9].any()
    colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]
    five = write_raster(tmp_path / "c.tif", soft, colours=[*colors, ColorInterp.alpha])
    scene = scene_of(five, PLAIN)
    assert [tuple(doubt) for doubt in doubts_beside_place(scene)] == [
        ("alpha_unused", "band 5 of 5")
    ]
    assert scene_of(five, Settings(nodata=0)).doubts == ()
    fourth = write_raster(tmp_path / "d.tif", soft, photometric="rgb", alpha="yes")
    with rasterio.open(fourth) as src:
        assert src.colorinterp[3] == ColorInterp.alpha
    scene = scene_of(fourth, PLAIN, channels=5)
    assert (scene.bands, kinds(scene)) == ((1, 2, 3, 4, 5), ["alpha_is_data"])


@pytest.mark.parametrize("name", ["premultiplied.tif", "a.png", "a.jp2", "a.vrt", "a.webp"])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_other_files_of_four_bands_are_judged_alike(tmp_path: Path, name: str) -> None:
    for make in (near_infrared, orthophoto):
        values = make(210, 190)
        source = write_raster(
            tmp_path / "source.tif",
            values,
            photometric="rgb",
            alpha="premultiplied" if name.startswith("pre") else "yes",
        )
        driver = {"png": "PNG", "jp2": "JP2OpenJPEG", "vrt": "VRT", "webp": "WEBP"}
        suffix = name.rpartition(".")[2]
        lossless = {"jp2": {"reversible": "yes", "quality": 100}, "webp": {"lossless": True}}
        path = tmp_path / name
        rasterio.shutil.copy(
            source, path, driver=driver.get(suffix, "GTiff"), **lossless.get(suffix, {})
        )
        with rasterio.open(path) as src:
            assert src.colorinterp[3] == ColorInterp.alpha
            masked = src.dataset_mask() != 0
        scene = scene_of(path, PLAIN)
        assert scene.alpha_is_data == (make is near_infrared)
        pixels = read_pixels(scene, scene.rect)
        if scene.alpha_is_data:
            assert pixels.valid_HW.all()
        else:
            np.testing.assert_array_equal(pixels.valid_HW, masked)


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_beside_near_infrared_applies(tmp_path: Path, internal: bool) -> None:
    mask = np.full((40, 60), 255, np.uint8)
    mask[:, 50:] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_raster(tmp_path / "a.tif", near_infrared(60, 40), mask=mask)
    for channels in (3, 4):
        scene = scene_of(path, PLAIN, channels)
        assert scene.alpha_is_data
        np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, mask != 0)


def test_nodata_beside_near_infrared_applies(tmp_path: Path) -> None:
    values = near_infrared(60, 40)
    values[:, :, 50:] = 0
    path = write_raster(tmp_path / "a.tif", values, nodata=0)
    scene = scene_of(path, PLAIN)
    assert scene.alpha_is_data
    valid = read_pixels(scene, scene.rect).valid_HW
    np.testing.assert_array_equal(valid, values[:3].any(axis=0))
    scene = scene_of(write_raster(tmp_path / "b.tif", values), Settings(nodata=0))
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, valid)


# ---- the sample ----------------------------------------------------------------------------


def test_the_smallest_overview_is_the_sample(tmp_path: Path) -> None:
    """Only the overview of this file looks like data."""
    values = noise(4, 1400, 1500)
    values[3] = 255
    path = write_raster(tmp_path / "a.tif", values, **LARGE)
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 8], Resampling.nearest)
    assert not scene_of(path, PLAIN).alpha_is_data
    values[3, ::2, ::2] = 7  # those that the nearest neighbor picks
    path = write_raster(tmp_path / "b.tif", values, **LARGE)
    with rasterio.open(path, "r+") as out:
        out.build_overviews([2, 8], Resampling.nearest)
    with rasterio.open(path) as src:
        expected = src.read(4, out_shape=(175, 188))
    (doubt,) = scene_of(path, PLAIN).doubts
    between = (expected != 255).mean()
    assert doubt.detail == f"band 4: {between:.2%} of a sample is neither 0 nor 255"


@pytest.mark.parametrize("factors", [[2, 4], [2, 4, 8, 16, 32]])
@pytest.mark.parametrize("name", ["nearest", "average", "cubic", "lanczos"])
def test_the_blurred_edges_of_overviews_are_edges(
    tmp_path: Path, name: str, factors: list[int]
) -> None:
    for make in (near_infrared, orthophoto):
        path = write_raster(tmp_path / "a.tif", make(1400, 1300), **LARGE)
        with rasterio.open(path, "r+") as out:
            out.build_overviews(factors, Resampling[name])
        assert scene_of(path, PLAIN).alpha_is_data == (make is near_infrared)


def test_overviews_in_a_file_of_their_own_do_not_count(tmp_path: Path) -> None:
    values = near_infrared(1400, 1500)
    path = write_raster(tmp_path / "a.tif", values, **LARGE)
    without = scene_of(path, PLAIN)
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4], Resampling.nearest)
    assert (tmp_path / "a.tif.ovr").exists()
    assert scene_of(path, PLAIN) == without


def test_a_remote_file_is_judged_alike(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name, values in (("a", near_infrared(1300, 1200)), ("b", orthophoto(1300, 1200))):
        path = write_raster(tmp_path / f"{name}.tif", values, **LARGE)
        memory.pipe(f"/alpha/{name}.tif", path.read_bytes())
        url = f"memory://alpha/{name}.tif"
        remote, local = describe(InputFile(name, url, "v1"), PLAIN, 3), scene_of(path, PLAIN)
        assert (remote.alpha_is_data, remote.doubts) == (local.alpha_is_data, local.doubts)
    memory.rm("/alpha", recursive=True)


@pytest.mark.parametrize("tile", ["1_1", "3_3"])
def test_damage_in_a_sampled_place_is_left_to_reading(tmp_path: Path, tile: str) -> None:
    path = write_raster(tmp_path / "a.tif", near_infrared(1300, 1200), **LARGE)
    with rasterio.open(path) as src:
        offset = int(src.get_tag_item(f"BLOCK_OFFSET_{tile}", "TIFF", bidx=1))
    data = bytearray(path.read_bytes())
    data[offset : offset + 200] = b"\xff" * 200
    path.write_bytes(data)
    scene = scene_of(path, PLAIN)
    assert scene.alpha_is_data
    assert read_pixels(scene, Rect(0, 0, 256, 256)).valid_HW.all()


def test_a_storage_tile_that_is_too_large_is_not_decoded(tmp_path: Path) -> None:
    """It is sparse: 4096 x 8192 px in four bands."""
    options = {"tiled": True, "blockxsize": 4096, "blockysize": 8192, "sparse_ok": True}
    path = tmp_path / "a.tif"
    shape = {"width": 9000, "height": 9000, "count": 4, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options):
        pass
    scene = scene_of(path, PLAIN)
    assert [tuple(doubt) for doubt in doubts_beside_place(scene)] == [
        ("alpha_is_band", "band 4, whose values cannot be sampled")
    ]
    assert doubts_beside_place(scene_of(path, Settings(alpha="data"))) == (
        Doubt("alpha_is_data", "band 4, by --alpha data"),
    )


@pytest.mark.parametrize(
    ("options", "height"),
    [
        ({"compress": "deflate", "blockysize": 3000}, 1428),  # one strip
        ({"driver": "PNG"}, 1428),
        ({"compress": "deflate"}, 3000),
        ({**TILES, "compress": "deflate"}, 3000),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_no_more_rows_are_decoded_than_the_sample_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], height: int
) -> None:
    monkeypatch.setattr(alpha, "_DECODED_BYTES", 6_000_000)
    source = write_raster(tmp_path / "source.tif", noise(4, 3000, 1050))
    path = tmp_path / "a.img"
    rasterio.shutil.copy(source, path, **{"driver": "GTiff", **options})
    with rasterio.open(path) as src:
        windows = [place["window"] for place in alpha._places(src)]
    assert len(windows) == 4
    last = max(window.row_off for window in windows)
    assert abs(last - height * 3 // 4) < 256
    assert {window.height for window in windows} <= {height - last, 512}


# ---- a whole run ---------------------------------------------------------------------------


def test_near_infrared_gives_the_rows_of_a_file_without_it(
    small_checkpoint: str, tmp_path: Path
) -> None:
    values = np.concatenate([picture(700, 300), noise(1, 300, 700)])
    values[3, :150] = 0
    write_scene(tmp_path / "four" / "a.tif", 700, 300, values=values)
    write_scene(tmp_path / "three" / "a.tif", 700, 300, values=values[:3])
    settings, execution = Settings(window=128, stride=96), Execution(runner="local")

    def arguments(name: str) -> tuple[list[str], str, str]:
        return [str(tmp_path / name)], small_checkpoint, str(tmp_path / f"out-{name}")

    three = run(*arguments("three"), settings, execution)
    planned = plan(*arguments("four")[:2], settings, execution)
    four = run(*arguments("four"), settings, execution)
    (note,) = set(four.notes) - set(three.notes)
    assert note in planned.notes
    assert note.startswith("1 input has a band that GDAL calls alpha and that is taken for data")
    assert "a.tif (band 4: " in note
    assert note.endswith("it masks nothing; --alpha band takes it for alpha")
    assert differences(tmp_path / "out-four", tmp_path / "out-three", "masks", "statistics") == []

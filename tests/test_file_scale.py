"""--scale file, each file's own scale and offset, compared with files of the scaled values; and
doubts about a --scale that is not the file's."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rasterio

from pipeline.api import run
from pipeline.doubt import Doubt
from pipeline.errors import InputError
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Rect
from pipeline.settings import Execution, Settings
from tests.support.archives import picture, write_scene
from tests.support.outputs import differences, rows
from tests.support.rasters import SCALED, TILES, noise, scene_of, write_raster

OWN = Settings(scale="file")
SCALES, OFFSETS = (0.0001, 0.0002, 0.05), (-0.1, 0.0, 3.0)


def write_scaled(
    path: Path,
    values: np.ndarray,
    scales: tuple[float, ...] = SCALES,
    offsets: tuple[float, ...] = OFFSETS,
    **options: object,
) -> Path:
    """Write a GeoTIFF that states a scale and an offset for each band."""
    with rasterio.open(write_raster(path, values, **options), "r+") as out:
        out.scales, out.offsets = scales, offsets
    return path


def scaled(values: np.ndarray, channels: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """float32, the values of these channels by SCALES and OFFSETS."""
    parts = [values[c].astype(np.float64) * SCALES[c] + OFFSETS[c] for c in channels]
    return np.stack(parts).astype(np.float32)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_each_band_is_scaled_in_float64_and_rounded_once(tmp_path: Path, dtype: str) -> None:
    values = noise(3, 1100, 1200, dtype=dtype)
    scene = scene_of(write_scaled(tmp_path / "a.tif", values, **TILES), OWN)
    assert (scene.dtype, scene.values_dtype) == (dtype, "float32")
    assert (scene.scales, scene.offsets, scene.doubts) == (SCALES, OFFSETS, ())
    pixels = read_pixels(scene, scene.rect)
    assert pixels.values_CHW.dtype == np.float32
    np.testing.assert_array_equal(pixels.values_CHW, scaled(values))
    part = read_pixels(scene, Rect(700, 3, 311, 1000))
    np.testing.assert_array_equal(part.values_CHW, scaled(values)[:, 3:1003, 700:1011])


def test_bands_have_their_own_scale_in_any_order(tmp_path: Path) -> None:
    values = noise(3, 40, 50, dtype="uint16")
    path = write_scaled(tmp_path / "a.tif", values)
    scene = scene_of(path, Settings(scale="file", bands=(3, 1, 3)))
    np.testing.assert_array_equal(
        read_pixels(scene, scene.rect).values_CHW, scaled(values, (2, 0, 2))
    )


def test_valid_is_decided_by_stored_values(tmp_path: Path) -> None:
    values = noise(3, 40, 50, dtype="float32")
    values[:, 3] = 7
    values[:, 4] = np.nan
    values[:2, 5] = np.nan
    path = write_scaled(tmp_path / "a.tif", values, nodata=7)
    scene = scene_of(path, OWN)
    pixels = read_pixels(scene, scene.rect)
    np.testing.assert_array_equal(
        pixels.valid_HW, (np.isfinite(values) & (values != 7)).any(axis=0)
    )
    assert not pixels.valid_HW[3:5].any()
    assert pixels.valid_HW[5].any()
    np.testing.assert_array_equal(np.isnan(pixels.values_CHW), np.isnan(values))
    scene = scene_of(path, Settings(scale="file", nodata=9))
    np.testing.assert_array_equal(
        read_pixels(scene, scene.rect).valid_HW, (np.isfinite(values) & (values != 9)).any(axis=0)
    )


@pytest.mark.parametrize("kind", ["scaled", "colors", "bits"])
def test_decoding_takes_no_more_memory_than_is_predicted(tmp_path: Path, kind: str) -> None:
    height, width = 2000, 3000
    if kind == "scaled":
        values, settings = np.zeros((3, height, width)), OWN
        path = write_scaled(tmp_path / "a.tif", values, **TILES, compress="zstd")
    else:
        values, settings = np.zeros((1, height, width), np.uint8), Settings(bands=(1,))
        options = {"photometric": "palette"} if kind == "colors" else {"nbits": 4}
        path = write_raster(tmp_path / "a.tif", values, **options, **TILES, compress="zstd")
    channels = 3 if kind == "scaled" else 1
    scene = scene_of(path, settings, channels)
    row = channels * np.dtype(scene.values_dtype).itemsize + 1
    predicted = (row + max(row, values.nbytes / (height * width))) * height * width
    tracemalloc.start()
    try:
        read_pixels(scene, scene.rect)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.nbytes < peak < predicted + 40_000_000  # chunks


def test_uint8_without_a_scale_is_read_as_always(tmp_path: Path) -> None:
    values = noise(3, 40, 50)
    scene = scene_of(write_raster(tmp_path / "a.tif", values), OWN)
    assert (scene.values_dtype, scene.scales) == ("uint8", ())
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, values)
    colors = scene_of(write_raster(tmp_path / "b.tif", values[:1], photometric="palette"), OWN)
    assert (colors.values_dtype, colors.scales) == ("uint8", ())


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((1.0, 1.0, 1.0), r"a\.tif: holds uint16 and states no scale .* gdal_edit\.py -scale"),
        ((0.1, 0.0, 0.1), r"a\.tif: states scale 0 and offset 0 for band 2, which --scale file"),
        ((0.1, 0.1, float("nan")), r"states scale nan .* for band 3"),
    ],
)
def test_a_file_without_a_usable_scale_is_refused(
    tmp_path: Path, scales: tuple[float, ...], message: str
) -> None:
    values = noise(3, 40, 50, dtype="uint16")
    path = write_scaled(tmp_path / "a.tif", values, scales, (0.0, 0.0, 0.0))
    with pytest.raises(InputError, match=message) as caught:
        scene_of(path, OWN)
    assert caught.value.stage == "describe"


def test_a_scale_that_is_not_the_file_s_is_doubtful(tmp_path: Path) -> None:
    values = noise(3, 40, 50, dtype="uint16")
    same = (0.0001,) * 3
    path = write_scaled(tmp_path / "a.tif", values, same, (-0.1,) * 3)
    doubt = Doubt("scale", "says scale 0.0001 and offset -0.1")
    assert scene_of(path, SCALED).doubts == (doubt,)
    assert scene_of(path, Settings(scale=0.001, offset=-0.1)).doubts == (doubt,)
    assert scene_of(path, Settings(scale=0.0001, offset=-0.1)).doubts == ()
    assert scene_of(write_raster(tmp_path / "b.tif", values), SCALED).doubts == ()
    eight = write_scaled(tmp_path / "c.tif", noise(3, 40, 50), (0.5,) * 3, (0.0,) * 3)
    assert scene_of(eight, Settings()).doubts == (Doubt("scale", "says scale 0.5 and offset 0"),)
    eight = write_scaled(tmp_path / "d.tif", noise(3, 40, 50), (1 / 255,) * 3, (0.0,) * 3)
    assert scene_of(eight, SCALED).doubts == ()


def test_an_archive_of_two_offsets_gives_the_rows_of_scaled_files(
    small_checkpoint: str, tmp_path: Path
) -> None:
    """Sentinel-2 before and after 2022, an image of 8 bits, and a file without a scale."""
    stored = picture(300, 200).astype(np.uint16) * 30 + 1100
    for folder in ("own", "plain"):
        write_scene(tmp_path / folder / "eight.tif", 300, 200)
    for name, scale, offset in (("before", 0.0001, 0.0), ("since", 0.0001, -0.1)):
        path = write_scene(tmp_path / "own" / f"{name}.tif", 300, 200, values=stored)
        with rasterio.open(path, "r+") as out:
            out.scales, out.offsets = (scale,) * 3, (offset,) * 3
        values = (stored.astype(np.float64) * scale + offset).astype(np.float32)
        write_scene(tmp_path / "plain" / f"{name}.tif", 300, 200, values=values)
    execution = Execution(runner="local", max_quarantined=5)
    for folder, scale in (("plain", 1.0), ("own", "file")):
        settings, out = Settings(window=128, stride=96, scale=scale), tmp_path / f"out-{folder}"
        run([str(tmp_path / folder)], small_checkpoint, str(out), settings, execution)
    assert differences(tmp_path / "out-own", tmp_path / "out-plain", "masks", "statistics") == []
    masks = [row["mask"] for row in rows(tmp_path / "out-own", "masks").to_pylist()]
    assert len(masks) == len(set(masks)) == 3
    write_scene(tmp_path / "own" / "without.tif", 300, 200, values=stored)
    settings = Settings(window=128, stride=96, scale="file")
    run([str(tmp_path / "own")], small_checkpoint, str(tmp_path / "out-own"), settings, execution)
    (row,) = rows(tmp_path / "out-own", "quarantine").to_pylist()
    assert (row["scene_id"], row["stage"]) == ("without.tif", "describe")
    assert "states no scale of its own for --scale file" in row["message"]

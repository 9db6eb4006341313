"""Indices into a color table, compared with the image that GDAL makes of them, and with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from pipeline.doubt import Doubt
from pipeline.errors import InputError, UsageError
from pipeline.imagery.pixels import read_pixels
from pipeline.settings import Settings
from tests.support.encoded import (
    COLORS,
    assert_reads_alike,
    expand,
    noise_to,
    write_vrt,
    write_with_table,
)
from tests.support.rasters import TILES, doubts_beside_place, scene_of, write_raster

ALPHA = Settings(alpha="band")
"""Settings for expanded images: their alpha is never judged."""
WIDTH, HEIGHT = 310, 290


def picture(colors: int) -> Image.Image:
    """A picture of so many colors."""
    return Image.fromarray(noise_to(colors - 1, WIDTH, HEIGHT)[0]).quantize(colors)


def tiff(folder: Path) -> Path:
    index = noise_to(255, WIDTH, HEIGHT)
    return write_with_table(folder / "a.tif", index, COLORS, **TILES, compress="deflate")


def tiff_strips(folder: Path) -> Path:
    return write_with_table(folder / "a.tif", noise_to(255, WIDTH, HEIGHT), COLORS)


def tiff_16(folder: Path) -> Path:
    index = noise_to(255, WIDTH, HEIGHT).astype(np.uint16) * 200
    table = np.resize(COLORS, (65536, 4))
    return write_with_table(folder / "a.tif", index, table)


def tiff_4_bits(folder: Path) -> Path:
    return write_with_table(folder / "a.tif", noise_to(15, WIDTH, HEIGHT), COLORS[:16], nbits=4)


def tiff_alpha(folder: Path) -> Path:
    """Indices beside an alpha band."""
    index = noise_to(255, WIDTH, HEIGHT)
    alpha = np.where(noise_to(9, WIDTH, HEIGHT) > 2, 255, 0).astype(np.uint8)
    return write_with_table(
        folder / "a.tif", np.concatenate([index, alpha]), COLORS, alpha="yes", interleave="band"
    )


def one_bit(folder: Path) -> Path:
    return write_raster(folder / "a.tif", noise_to(1, WIDTH, HEIGHT), nbits=1)


def one_bit_negative(folder: Path) -> Path:
    index = noise_to(1, WIDTH, HEIGHT)
    return write_raster(folder / "a.tif", index, nbits=1, photometric="miniswhite")


def png(folder: Path) -> Path:
    picture(200).save(folder / "a.png")
    return folder / "a.png"


def png_2_bits(folder: Path) -> Path:
    picture(4).save(folder / "a.png")
    return folder / "a.png"


def png_transparent(folder: Path) -> Path:
    """Several entries with an alpha of their own, two of them of 0."""
    picture(200).save(folder / "a.png", transparency=bytes([0, 128, 255, 0, 255]))
    return folder / "a.png"


def gif(folder: Path) -> Path:
    picture(200).save(folder / "a.gif", transparency=3)
    return folder / "a.gif"


def bmp(folder: Path) -> Path:
    picture(200).save(folder / "a.bmp")
    return folder / "a.bmp"


def vrt(folder: Path) -> Path:
    """A table that is shorter than the indices."""
    source = write_raster(folder / "source.tif", noise_to(255, WIDTH, HEIGHT))
    return write_vrt(folder / "a.vrt", source, COLORS[:200])


def vrt_signed(folder: Path) -> Path:
    values = noise_to(255, WIDTH, HEIGHT).astype(np.int16) - 9
    source = write_raster(folder / "source.tif", values)
    return write_vrt(folder / "a.vrt", source, COLORS, "Int16")


FILES = [tiff, tiff_strips, tiff_16, tiff_4_bits, one_bit, one_bit_negative]
FILES += [png, png_2_bits, png_transparent, gif, bmp, vrt, vrt_signed]


@pytest.mark.parametrize("write", FILES)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_color_table_is_applied_as_gdal_does(tmp_path: Path, write) -> None:
    path = write(tmp_path)
    expanded = expand(path, tmp_path / "expanded.tif")
    scene = scene_of(path, Settings())
    assert (scene.bands, scene.palette, scene.values_dtype) == ((1, 2, 3), True, "uint8")
    assert (scene.bits, scene.negative) == (None, False)
    assert_reads_alike(scene, scene_of(expanded, ALPHA))
    for bands in ((3, 1, 1), (2, 4, 2)):
        settings = Settings(bands=bands, alpha="band")
        assert_reads_alike(scene_of(path, settings), scene_of(expanded, settings))
    with rasterio.open(expanded) as src:
        transparent = bool((src.read(4) == 0).any())
    assert transparent == (write in (png_transparent, gif, vrt, vrt_signed))


@pytest.mark.parametrize("write", [png, png_2_bits, bmp, gif])
def test_a_color_table_is_applied_as_pillow_does(tmp_path: Path, write) -> None:
    path = write(tmp_path)
    scene = scene_of(path, Settings())
    pixels = read_pixels(scene, scene.rect)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(pixels.values_CHW, expected)


def test_an_alpha_band_beside_indices_masks_them(tmp_path: Path) -> None:
    path = tiff_alpha(tmp_path)
    scene = scene_of(path, Settings())
    with rasterio.open(path) as src:
        index, alpha = src.read()
    pixels = read_pixels(scene, scene.rect)
    np.testing.assert_array_equal(pixels.valid_HW, alpha != 0)
    np.testing.assert_array_equal(pixels.values_CHW, COLORS[index].transpose(2, 0, 1)[:3])
    with pytest.raises(InputError, match=r"band 1 of 2 .*gdal_translate -b 1 -expand rgb"):
        scene_of(path, Settings(alpha="data", bands=(1, 1, 1)))


def test_nodata_is_compared_with_the_index(tmp_path: Path) -> None:
    index = noise_to(255, WIDTH, HEIGHT)
    colors = COLORS.copy()
    colors[7] = colors[9] = 200  # and 200 itself is a color that is valid
    scene = scene_of(write_with_table(tmp_path / "a.tif", index, colors, nodata=7), Settings())
    pixels = read_pixels(scene, scene.rect)
    np.testing.assert_array_equal(pixels.valid_HW, index[0] != 7)
    scene = scene_of(tmp_path / "a.tif", Settings(nodata=9))
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, index[0] != 9)


def test_the_nodata_option_overrides_transparent_colors(tmp_path: Path) -> None:
    path = png_transparent(tmp_path)
    scene = scene_of(path, Settings(nodata=5))
    with Image.open(path) as image:
        index = np.asarray(image)
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, index != 5)
    short = scene_of(vrt(tmp_path), Settings(nodata=5))
    index = noise_to(255, WIDTH, HEIGHT)[0]
    expected = (index != 5) & (index < 200)
    np.testing.assert_array_equal(read_pixels(short, short.rect).valid_HW, expected)


def test_a_mask_applies_beside_a_color_table(tmp_path: Path) -> None:
    index = noise_to(255, WIDTH, HEIGHT)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[100:, 30] = 0
    path = write_with_table(tmp_path / "a.tif", index, COLORS)
    with rasterio.open(path, "r+") as out:
        out.write_mask(mask)
    scene = scene_of(path, Settings())
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).valid_HW, mask != 0)


def test_bands_of_the_expanded_image_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tiff(tmp_path)
    with pytest.raises(UsageError, match=r"3 bands and 1 alpha by its color table, but .* name"):
        scene_of(path, Settings(), channels=4)
    with pytest.raises(UsageError, match=r"4 bands, but --bands asks for band 5: .* 1 to 4"):
        scene_of(path, Settings(bands=(1, 2, 5)))
    scene = scene_of(path, Settings(bands=(1, 2, 3, 4)), channels=4)
    assert [doubt.kind for doubt in scene.doubts] == ["alpha_fed"]
    index = noise_to(255, WIDTH, HEIGHT)[0]
    np.testing.assert_array_equal(
        read_pixels(scene, scene.rect).values_CHW, COLORS[index].transpose(2, 0, 1)
    )


def test_a_network_of_one_channel_gets_grays_but_no_colors(tmp_path: Path) -> None:
    index = noise_to(255, WIDTH, HEIGHT)
    grays = np.repeat(np.arange(255, -1, -1, dtype=np.uint8)[:, None], 4, axis=1)
    grays[:, 3] = 255
    scene = scene_of(write_with_table(tmp_path / "gray.tif", index, grays), Settings(), 1)
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, 255 - index)
    path = write_with_table(tmp_path / "color.tif", index, COLORS)
    with pytest.raises(UsageError, match=r"color\.tif: .*1 channel: .*--bands 1 \(red\), 2"):
        scene_of(path, Settings(), channels=1)
    green = scene_of(path, Settings(bands=(2,)), channels=1)
    np.testing.assert_array_equal(read_pixels(green, green.rect).values_CHW, COLORS[index][..., 1])


def test_a_transparent_color_does_not_count_among_grays(tmp_path: Path) -> None:
    image = Image.fromarray(noise_to(3, WIDTH, HEIGHT)[0], "P")
    image.putpalette([0, 0, 0, 90, 90, 90, 255, 0, 255, 200, 200, 200])
    image.save(tmp_path / "a.png", transparency=2)
    scene = scene_of(tmp_path / "a.png", Settings(), channels=1)
    pixels = read_pixels(scene, scene.rect)
    index = noise_to(3, WIDTH, HEIGHT)[0]
    np.testing.assert_array_equal(pixels.valid_HW, index != 2)
    assert set(np.unique(pixels.values_CHW[0, pixels.valid_HW])) == {0, 90, 200}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_first_picture_of_an_animation_is_read_and_the_others_noted(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(noise_to(top, 90, 70)[0]).quantize(99) for top in (99, 50, 9))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others)
    with rasterio.open(tmp_path / "a.gif") as src:
        assert src.count == 3
    scene = scene_of(tmp_path / "a.gif", Settings())
    assert doubts_beside_place(scene) == (Doubt("frames", "3 images"),)
    np.testing.assert_array_equal(
        read_pixels(scene, scene.rect).values_CHW,
        np.asarray(first.convert("RGB")).transpose(2, 0, 1),
    )


def test_indices_beside_other_bands_are_refused_unless_others_are_named(tmp_path: Path) -> None:
    gray, palette = ColorInterp.gray, ColorInterp.palette
    source = write_raster(tmp_path / "s.tif", noise_to(255, 30, 20, bands=3))
    one = write_vrt(tmp_path / "a.vrt", source, COLORS).read_text()
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}"><ColorInterp>Gray</ColorInterp><SimpleSource>'
        f"<SourceFilename>{source}</SourceFilename><SourceBand>{n}</SourceBand></SimpleSource>"
        "</VRTRasterBand>"
        for n in (2, 3)
    )
    path = tmp_path / "a.vrt"
    path.write_text(one.replace("</VRTDataset>", f"{bands}</VRTDataset>"))
    with rasterio.open(path) as src:
        assert src.colorinterp == (palette, gray, gray)
    for settings in (Settings(), Settings(bands=(2, 1, 3))):
        with pytest.raises(InputError, match=r"band 1 of 3 .*--bands, .* -b 1 -expand rgb IN OUT"):
            scene_of(path, settings)
    scene = scene_of(path, Settings(bands=(3, 2, 3)))
    with rasterio.open(source) as src:
        np.testing.assert_array_equal(
            read_pixels(scene, scene.rect).values_CHW, src.read([3, 2, 3])
        )


def test_indices_without_a_table_or_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "s.tif", noise_to(255, 30, 20))
    path = write_vrt(tmp_path / "a.vrt", source, COLORS[:1], "Float32")
    with pytest.raises(InputError, match=r"are float32 and no indices; .*-ot Byte") as caught:
        scene_of(path, Settings())
    assert caught.value.stage == "describe"
    text = path.read_text().replace("Float32", "Byte")
    path.write_text(text[: text.index("<ColorTable>")] + text[text.index("<SimpleSource>") :])
    with pytest.raises(InputError, match=r"has none; .*gdal_translate -colorinterp gray IN OUT"):
        scene_of(path, Settings())


def test_the_table_that_gdal_leaves_of_a_negative_is_applied(tmp_path: Path) -> None:
    """A copy of a MINISWHITE file has its inverting table, but neither the tag nor the color."""
    values = noise_to(255, WIDTH, HEIGHT)
    negative = write_raster(tmp_path / "a.tif", values, photometric="miniswhite")
    for driver, name in (("GTiff", "b.tif"), ("VRT", "b.vrt"), ("PNG", "b.png")):
        rasterio.shutil.copy(negative, tmp_path / name, driver=driver)
        scene = scene_of(tmp_path / name, Settings(bands=(1, 1, 1)))
        assert (scene.negative, scene.palette) == (False, True)
        np.testing.assert_array_equal(
            read_pixels(scene, scene.rect).values_CHW, np.repeat(255 - values, 3, axis=0)
        )
    one = scene_of(one_bit_negative(tmp_path), Settings())
    assert one.doubts == (Doubt("negative", "uint8"),)

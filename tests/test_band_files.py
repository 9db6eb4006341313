"""One file per band, as Landsat, Sentinel-2 and STAC items come: the advice is to stack them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.settings import Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support.rasters import noise, scene_of, write_raster

ONE_EACH = "name one band per channel, e.g. --bands 1,1,1"


def refusal(path: Path, channels: int = 3) -> str:
    with pytest.raises(UsageError) as refused:
        scene_of(path, Settings(), channels)
    return str(refused.value)


def write(folder: Path, name: str, bands: str) -> list[Path]:
    """Write a file for each of the bands, whose names replace the braces in `name`."""
    paths = [folder / name.format(band) for band in bands.split()]
    return [write_raster(path, noise(1, 16, 16)) for path in paths]


@pytest.mark.parametrize(
    ("name", "bands", "vrt", "stacked"),
    [
        ("T33UUP_{}_10m.tif", "B02 B03 B04 B08", "T33UUP_10m.vrt", "B04 B03 B02"),
        ("{}.tif", "B2 B3 B4", "stacked.vrt", "B4 B3 B2"),
        ("LC08_L2SP_SR_{}.TIF", "B2 B3 B4 B10", "LC08_L2SP_SR.vrt", "B4 B3 B2"),
        ("LT05_L2SP_SR_{}.TIF", "B1 B2 B3 B4", "LT05_L2SP_SR.vrt", "B3 B2 B1"),
        ("HLS.S30.v2.0.{}.tif", "B8A B02 B03 B04", "HLS.S30.v2.0.vrt", "B04 B03 B02"),
        ("T1_{}.tif", "B11 B02 B03 B04", "T1.vrt", "B04 B03 B02"),
        ("sur_refl_{}.tif", "b01 b02 b03", "sur_refl.vrt", "b01 b02 b03"),
        ("a_{}.tif", "band1 band2 band3", "a.vrt", "band1 band2 band3"),
        ("{}.tif", "blue green red nir", "stacked.vrt", "red green blue"),
        ("x-{}.tif", "Blue Green Red", "x.vrt", "Red Green Blue"),
        ("x {}.tif", "BLUE GREEN RED", "x .vrt", "RED GREEN BLUE"),
        ("red_hill_{}.tif", "B02 B03 B04", "red_hill.vrt", "B04 B03 B02"),
    ],
)
def test_the_advice_names_the_files_to_stack(
    tmp_path: Path, name: str, bands: str, vrt: str, stacked: str
) -> None:
    paths = write(tmp_path, name, bands)
    files = [name.format(band) for band in stacked.split()]
    command = shlex.join(["gdalbuildvrt", "-separate", vrt, *files])
    for path in paths:
        assert refusal(path) == (
            f"{path}: has 1 band, but the network has 3 channels, and the other bands are files of"
            f" their own: stack them in the order of the channels, e.g. {command}, and name the"
            " result as INPUT"
        )


def test_other_channels_get_the_bands_in_their_own_order(tmp_path: Path) -> None:
    (path, *_) = write(tmp_path, "S2_{}.tif", "B02 B03 B04 B08 B11")
    files = "S2_B02.tif S2_B03.tif S2_B04.tif S2_B08.tif,"
    assert f"-separate S2.vrt {files}" in refusal(path, channels=4)
    (path, *_) = write(tmp_path, "{}.tif", "blue red")
    assert "-separate stacked.vrt red.tif blue.tif," in refusal(path, channels=2)


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("T33UUP_{}.tif", "B02"),
        ("T33UUP_{}.tif", "B02 B04"),  # too few for 3 channels
        ("T33UUP_{}.tif", "SCL AOT WVP"),
        ("{}.tif", "a b c"),
        ("B{}x.tif", "2 3 4"),
        ("{}_1.tif", "bridge infrared nirvana"),
    ],
)
def test_other_files_of_one_band_may_be_gray(tmp_path: Path, name: str, bands: str) -> None:
    for path in write(tmp_path, name, bands):
        assert refusal(path).endswith(ONE_EACH)


def test_bands_in_other_folders_or_with_other_tokens_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (path,) = write(tmp_path, "T33UUP_{}_10m.tif", "B02")
    write(tmp_path, "T33UUQ_{}_10m.tif", "B03 B04")
    write(tmp_path, "T33UUP_{}_20m.tif", "B03 B04")
    write(tmp_path / "other", "T33UUP_{}_10m.tif", "B03 B04")
    assert refusal(path).endswith(ONE_EACH)


def test_who_names_the_bands_gets_them(tmp_path: Path) -> None:
    (path, *_) = write(tmp_path, "T33UUP_{}.tif", "B02 B03 B04")
    assert scene_of(path, Settings(bands=(1, 1, 1))).bands == (1, 1, 1)
    assert scene_of(path, Settings(), channels=1).bands == (1,)


def test_a_stack_of_the_files_is_read(tmp_path: Path) -> None:
    """A VRT as gdalbuildvrt writes it."""
    paths = write(tmp_path, "{}.tif", "B02 B03 B04")
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{number}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{path.name}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for number, path in enumerate(reversed(paths), 1)
    )
    stack = tmp_path / "stacked.vrt"
    stack.write_text(f'<VRTDataset rasterXSize="16" rasterYSize="16">{bands}</VRTDataset>')
    assert scene_of(stack, Settings()).bands == (1, 2, 3)


@pytest.mark.s3
def test_a_bucket_is_asked_for_the_files_too(tmp_path: Path, s3_folder: str) -> None:
    fs, root = DEFAULT_ACCESS.filesystem(s3_folder)
    for path in write(tmp_path, "T33UUP_{}.tif", "B02 B03 B04"):
        fs.pipe_file(f"{root}/{path.name}", path.read_bytes())
    file = InputFile("T33UUP_B03.tif", f"{s3_folder}/T33UUP_B03.tif", "v1")
    stack = (
        "-separate T33UUP.vrt T33UUP_B04.tif T33UUP_B03.tif T33UUP_B02.tif"
        " && gdal_translate T33UUP.vrt T33UUP.tif, and name"
    )
    with pytest.raises(UsageError, match=stack):
        describe(file, Settings(), 3)

"""The `.aux.xml` beside an image: what of it is identity, and what comes and goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.api import run
from pipeline.imagery.aux_xml import MAX_BYTES, decisive_version
from pipeline.imagery.header import describe
from pipeline.imagery.identity import version_of
from pipeline.imagery.pixels import read_pixels
from pipeline.progress import Progress
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support import s3_server
from tests.support.archives import write_scene
from tests.support.outputs import differences
from tests.support.rasters import doubts_beside_place, noise, write_raster
from tests.support.sidecars import (
    MAPINFO,
    PLACE,
    PLACED,
    SIX,
    described,
    found,
    mask_file,
    nodata_of,
    statistics_of,
    write_aux,
    write_image,
)
from tests.support.web_server import Server, serving

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[306], tags[271] = "2020:01:02 03:04:05", "DJI"
    return tags


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {}),
        ("a.jp2", {}),
        ("a.png", {}),
        ("one_bit.png", {"mode": "1"}),
        ("palette.png", {"mode": "P"}),
        ("alpha.png", {"mode": "RGBA"}),
        ("a.jpg", {}),
        ("cmyk.jpg", {"mode": "CMYK"}),
        ("camera.jpg", {"exif": exif()}),
    ],
)
def test_statistics_by_gdal_decide_nothing(tmp_path: Path, name: str, options: dict) -> None:
    """GDAL adds what it knows of the image itself: bits, compression, EXIF."""
    picture = Image.fromarray(noise(40, 50, 3)).convert(options.pop("mode", "RGB"))
    path = tmp_path / name
    picture.save(path, **options)
    (tmp_path / "a.wld").write_text("\n".join(SIX))
    assert decisive_version(statistics_of(path, tmp_path / "scratch")) is None


@pytest.mark.parametrize(
    ("element", "other"),
    [
        ("<SRS>EPSG:32633</SRS>", "<SRS>EPSG:32634</SRS>"),
        ("<GeoTransform>1,2,0,3,0,4</GeoTransform>", "<GeoTransform>1,2,0,3,0,5</GeoTransform>"),
        (
            '<GCPList><GCP Id="1" Pixel="0"/></GCPList>',
            '<GCPList><GCP Id="1" Pixel="1"/></GCPList>',
        ),
        (nodata_of(1, 0), nodata_of(1, 1)),
        (nodata_of(1, 0), nodata_of(2, 0)),
        (
            '<Metadata><MDI key="NODATA_VALUES">0 0 0</MDI></Metadata>',
            '<Metadata><MDI key="NODATA_VALUES">1 0 0</MDI></Metadata>',
        ),
        *(
            (
                f'<PAMRasterBand band="1"><{tag}>{value}</{tag}></PAMRasterBand>',
                f'<PAMRasterBand band="1"><{tag}>{other}</{tag}></PAMRasterBand>',
            )
            for tag, value, other in (
                ("Offset", "1", "2"),
                ("Scale", "1", "2"),
                ("ColorInterp", "Red", "Alpha"),
                ("ColorTable", '<Entry c1="1"/>', '<Entry c1="2"/>'),
            )
        ),
        (
            '<Metadata domain="xml:ESRI" format="xml"><GeodataXform>1</GeodataXform></Metadata>',
            '<Metadata domain="xml:ESRI" format="xml"><GeodataXform>2</GeodataXform></Metadata>',
        ),
    ],
)
def test_what_decides_is_identity_and_the_rest_of_the_file_is_not(element: str, other: str) -> None:
    plain = f"<PAMDataset>{element}</PAMDataset>"
    version = decisive_version(plain.encode())
    assert version is not None
    statistics = (
        '\n <Metadata><MDI key="x">1</MDI></Metadata>\n <PAMRasterBand band="1">\n'
        "  <Description>b</Description><Histograms><HistItem/></Histograms>"
        '<Metadata><MDI key="STATISTICS_MEAN">4</MDI></Metadata></PAMRasterBand>'
        '<Metadata domain="IMAGE_STRUCTURE"><MDI key="NBITS">4</MDI></Metadata>\n'
    )
    with_statistics = f"<PAMDataset>{statistics}{element}{statistics}</PAMDataset>"
    assert decisive_version(with_statistics.encode()) == version
    spaced = plain.replace("><", ">\n  <").replace(">1</", ">\n1 </")
    assert decisive_version(spaced.encode("utf-16")) == version
    assert decisive_version(f"<PAMDataset>{other}</PAMDataset>".encode()) != version


@pytest.mark.parametrize(
    "bands",
    [
        nodata_of(1, 7).replace("NoDataValue", "nodatavalue"),
        nodata_of(1, 7).replace("PAMRasterBand band", "pamrasterband BAND"),
        '<METADATA><mdi Key="nodata_values">7 7 7</mdi></METADATA>',
    ],
)
def test_case_makes_no_difference_as_it_makes_none_to_gdal(
    server: Server, tmp_path: Path, bands: str
) -> None:
    image = write_raster(tmp_path / "in" / "a.tif", np.full((3, 40, 50), 7, np.uint8))
    aux = write_aux(image, bands=bands)
    with rasterio.open(image) as src:
        assert not src.dataset_mask().any() or src.nodatavals == (7, None, None)
    for url in (image, f"{server.url}/a.tif"):
        scene = described(url)
        assert scene.sidecars == (aux.name,)
        with rasterio.open(image) as src:
            assert np.array_equal(
                read_pixels(scene, scene.rect).valid_HW, src.read_masks().any(axis=0)
            )


def test_the_domain_of_arcgis_is_known_in_any_case() -> None:
    text = '<PAMDataset><metadata Domain="XML:esri"><a>1</a></metadata></PAMDataset>'
    assert decisive_version(text.encode()) is not None
    assert decisive_version(text.replace("XML:esri", "other").encode()) is None


def test_gdal_keeps_the_decisive_part_when_it_adds_statistics(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    with rasterio.open(path, "r+") as out:
        out.crs, out.transform, out.nodata = "EPSG:32633", rasterio.Affine(*PLACED), 7
    (before,) = found(path)
    assert before.sidecars == ("a.png.aux.xml",)
    (tmp_path / "a.png.aux.xml").write_bytes(statistics_of(path, tmp_path / "scratch"))
    assert found(path) == [before]


def test_what_is_damaged_or_huge_is_identified_as_a_whole(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    aux = write_aux(path, "")
    versions = set()
    for content in ("<PAMDataset>", "<PAMDataset", "<PAMDataset/>" + " " * MAX_BYTES):
        aux.write_text(content)
        (file,) = found(path)
        assert file.sidecars == (aux.name,)
        assert version_of(str(path), file.sidecars, DEFAULT_ACCESS) == file.version
        versions.add(file.version)
    assert len(versions) == 3


STATISTICS = (
    '<PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">4</MDI></Metadata>'
    "</PAMRasterBand>"
)

Put = Callable[[str, bytes | None], None]
"""Writes a file of the archive, or deletes it."""


@pytest.fixture(params=["disk", "web", pytest.param("s3", marks=pytest.mark.s3)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[list[str], Put]]:
    """Two images, as INPUTs that name them, and a way to change what is beside them."""
    names, folder = ["a.tif", "b.png"], tmp_path / "in"
    write_scene(folder / "a.tif", 100, 80, seed=1)
    write_image(folder / "b.png")

    def put(name: str, content: bytes | None) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    if request.param == "disk":
        yield [str(folder)], put
    elif request.param == "web":
        with serving(Server(folder)) as server:
            yield [f"{server.url}/{name}" for name in names], put
    else:
        request.getfixturevalue("s3")
        url, fs = request.getfixturevalue("s3_folder"), s3_server.client()

        def put_object(name: str, content: bytes | None) -> None:
            if content is None:
                fs.rm_file(f"{url}/{name}")
            else:
                fs.pipe_file(f"{url}/{name}", content)

        for name in names:
            put_object(name, (folder / name).read_bytes())
        yield [url], put_object


def test_statistics_that_come_and_go_change_nothing(
    archive: tuple[list[str], Put], small_checkpoint: str, tmp_path: Path
) -> None:
    inputs, put = archive
    folder, out = tmp_path / "in", tmp_path / "out"
    auxes = {n: statistics_of(folder / n, tmp_path / "scratch") for n in ("a.tif", "b.png")}

    def look(progress: Progress) -> None:
        """Look at every image in QGIS, before the first and after each unit."""
        del progress
        for name, content in auxes.items():
            put(f"{name}.aux.xml", content)

    arguments = inputs, small_checkpoint, str(out), SETTINGS, LOCAL
    receipt = run(*arguments, on_progress=look)
    assert (receipt.scenes_done, receipt.failures) == (2, ())
    run(inputs, small_checkpoint, str(tmp_path / "with"), SETTINGS, LOCAL)
    assert differences(out, tmp_path / "with") == []
    for name in auxes:
        put(f"{name}.aux.xml", None)
    for output in (out, tmp_path / "with"):
        again = run(inputs, small_checkpoint, str(output), SETTINGS, LOCAL)
        assert (again.units_computed, again.notes) == (0, receipt.notes)


def test_a_place_that_is_added_afterwards_is_a_change(
    archive: tuple[list[str], Put], small_checkpoint: str, tmp_path: Path
) -> None:
    inputs, put = archive
    arguments = inputs, small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL
    run(*arguments)
    put("b.png.aux.xml", f"<PAMDataset>{PLACE}</PAMDataset>".encode())
    (note,) = (note for note in run(*arguments).notes if "changed" in note)
    assert "1 input has changed since it was planned, first " in note
    assert "b.png; this output is about the earlier versions" in note


@pytest.mark.parametrize("name", ["a.tif.aux.xml", "a.tif.msk", "a.tif.MSK"])
def test_a_side_car_that_gdal_would_read_from_now_on_is_noticed_while_a_run_reads(
    small_checkpoint: str, tmp_path: Path, name: str
) -> None:
    image = write_scene(tmp_path / "in" / "a.tif", 100, 80)

    def mask(progress: Progress) -> None:
        del progress
        if name.endswith(".aux.xml"):
            write_aux(image, bands=nodata_of(1, 5))
        else:
            (tmp_path / "in" / name).write_bytes(mask_file(50, 40))

    receipt = run(
        [str(image)], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL, on_progress=mask
    )
    (failure,) = receipt.failures
    assert "changed after it was planned" in failure.message


def test_images_without_an_aux_xml_cost_no_request_for_one(
    server: Server, tmp_path: Path, small_checkpoint: str
) -> None:
    for name in "abc":
        write_scene(tmp_path / "in" / f"{name}.tif", 60, 50)
    write_aux(tmp_path / "in" / "c.tif", PLACE)
    urls = [f"{server.url}/{name}.tif" for name in "abc"]
    run(urls, small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    asked = [r for r in server.requests if ".aux.xml" in r]
    # A server does not list: HEAD, and fsspec's GET after its 404, once, are the price.
    assert sum("/a.tif" in request for request in asked) == 2
    assert sum("/c.tif" in request for request in asked) > 2


@pytest.mark.s3
def test_a_listing_of_images_without_an_aux_xml_reads_nothing(
    s3: s3_server.Server, s3_folder: str, tmp_path: Path
) -> None:
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto keeps no log of requests")
    path = write_scene(tmp_path / "a.tif", 60, 50)
    for name in ("plain", "looked"):
        s3_server.client().put_file(str(path), f"{s3_folder}/{name}.tif")
    aux = statistics_of(path, tmp_path / "scratch")
    s3_server.client().pipe_file(f"{s3_folder}/looked.tif.aux.xml", aux)
    before = {name: s3.requests(f"{name}.tif") for name in ("plain", "looked")}
    assert [file.sidecars for file in found(s3_folder)] == [(), ()]
    assert s3.requests("plain.tif") == before["plain"]
    assert s3.requests("looked.tif") == before["looked"] + 1


@pytest.mark.parametrize("content", ["", "  \n", "no XML", "<PAMDataset><SRS>"])
def test_a_damaged_aux_xml_is_doubted_and_costs_no_image(
    server: Server, tmp_path: Path, content: str
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.png.aux.xml").write_text(content)
    for url in (image, f"{server.url}/a.png"):
        scene = described(url)
        ((kind, detail),) = doubts_beside_place(scene)
        assert kind == ("no_xml" if content.strip() else "side_car")
        assert detail.startswith("a.png.aux.xml: it is ")
        assert read_pixels(scene, scene.rect).valid_HW.all()


def test_an_aux_xml_that_decides_nothing_changes_no_tag_that_is_read(
    server: Server, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    urls = (str(image), f"{server.url}/a.png")
    before = [described(url) for url in urls]
    (tmp_path / "in" / "a.png.aux.xml").write_text(
        '<PAMDataset><Metadata domain="IMAGE_STRUCTURE"><MDI key="MINISWHITE">YES</MDI></Metadata>'
        '<Metadata><MDI key="TIFFTAG_DATETIME">2011:01:02 03:04:05</MDI></Metadata>'
        '<PAMRasterBand band="1"><Metadata domain="IMAGE_STRUCTURE"><MDI key="NBITS">4</MDI>'
        "</Metadata></PAMRasterBand></PAMDataset>"
    )
    with rasterio.open(image) as src:
        assert src.tags(1, ns="IMAGE_STRUCTURE")["NBITS"] == "4"
    assert [described(url) for url in urls] == before


def write_grid(folder: Path) -> Path:
    """Write an ASCII grid with its CRS in a `.prj`."""
    (folder / "a.prj").write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt())
    lines = ["ncols 4", "nrows 2", "xllcorner 500000", "yllcorner 5000000", "cellsize 10"]
    (folder / "a.asc").write_text("\n".join([*lines, "1 2 3 4", "5 6 7 8", ""]))
    return folder / "a.asc"


def write_mapinfo(folder: Path) -> Path:
    """Write an image that a MapInfo file places."""
    (folder / "a.tab").write_text(MAPINFO)
    return write_image(folder / "a.tif")


def write_digitalglobe(folder: Path) -> Path:
    """Write an image with a metadata file that says when it was taken."""
    (folder / "a.IMD").write_text(
        'version = "AA";\nBEGIN_GROUP = IMAGE_1\n\tsatId = "WV02";\n\tmode = "FullSwath";\n'
        "\tfirstLineTime = 2011-05-01T13:00:00.000000Z;\nEND_GROUP = IMAGE_1\nEND;\n"
    )
    return write_raster(folder / "a.tif", noise(3, 40, 50))


@pytest.mark.parametrize("write", [write_grid, write_mapinfo, write_digitalglobe])
def test_statistics_take_nothing_from_what_other_files_say(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    (file,) = found(path)
    settings = Settings(scale=1, bands=(1, 1, 1))
    scene = describe(file, settings, 3)
    assert scene.crs
    assert (scene.datetime is not None) == (write is write_digitalglobe)
    write_aux(path, bands=STATISTICS)
    (again,) = found(path)
    assert describe(again, settings, 3) == scene

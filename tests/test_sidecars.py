"""Files beside an image: what of them is identity, and what a damaged one costs; on disk and remote
alike."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from pipeline.api import run
from pipeline.doubt import Doubt
from pipeline.errors import InputError
from pipeline.imagery.aux_xml import MAX_BYTES, decisive_version
from pipeline.imagery.header import describe
from pipeline.imagery.identity import version_of
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.pixels import read_pixels
from pipeline.imagery.source import find_inputs
from pipeline.progress import Progress
from pipeline.scene import IDENTITY, Scene
from pipeline.settings import Execution, Settings
from pipeline.storage.access import DEFAULT_ACCESS
from tests.support import s3_server
from tests.support.archives import write_scene
from tests.support.jpegs import encoded, with_scan_parameters
from tests.support.outputs import differences
from tests.support.rasters import doubts_beside_place, noise, write_raster
from tests.support.sidecars import PLACE, nodata_of, statistics_of, write_aux
from tests.support.web_server import Server, serving

SETTINGS = Settings(window=64, stride=48, batch=2)
LOCAL = Execution(runner="local")
PLACED = (10.0, 0.0, 499995.0, 0.0, -10.0, 5000005.0)
"""The transform of SIX."""
SIX = ("10", "0", "0", "-10", "500000", "5000000")


def found(*inputs: Path | str) -> list[InputFile]:
    return find_inputs([str(one) for one in inputs], DEFAULT_ACCESS)


def described(url: Path | str) -> Scene:
    (file,) = found(url)
    return describe(file, Settings(), 3)


def write_image(path: Path) -> Path:
    """Write an image without a place, in the format of its suffix, as people's programs do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(40, 50, 3)).save(path)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "in").mkdir()
    with serving(Server(tmp_path / "in")) as server:
        yield server


# ---- .aux.xml: what is identity -------------------------------------------------------------


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


# ---- .aux.xml: the moments of a run ---------------------------------------------------------

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


# ---- world files ----------------------------------------------------------------------------

WORLD_FILES: dict[str, tuple[bytes, bool]] = {
    "plain": ("\n".join(SIX).encode(), True),
    "windows": ("\r\n".join(SIX).encode() + b"\r\n", True),
    "comma": ("\n".join(SIX).replace("10", "10,0").encode(), True),
    "seventh": ("\n".join([*SIX, "0"]).encode(), True),
    "blank": ("\n\n".join(["", *SIX, " "]).encode(), True),
    "mark": (("\ufeff" + "\n".join(SIX)).encode(), True),
    "notepad": ("\n".join(SIX).encode("utf-16"), True),
    "comment": ("\n".join(f"{n}  of six" for n in SIX).encode(), True),
    "one_line": (" ".join(SIX).encode(), True),
    "exponent": ("\n".join(["1.0E+1", *SIX[1:]]).encode(), True),
    "empty": (b"", False),
    "five": ("\n".join(SIX[:5]).encode(), False),
    "words": ("\n".join(["a", *SIX[1:]]).encode(), False),
    "thousands": ("\n".join(["1,000.5", *SIX[1:]]).encode(), False),
    "zeros": (b"0\n" * 6, False),
    "nan": ("\n".join(["nan", *SIX[1:]]).encode(), False),
    "infinite": ("\n".join(["1e999", *SIX[1:]]).encode(), False),
    "bytes": (bytes(range(256)), False),
}
ENDINGS = {"png": "pgw", "jpg": "jgw", "tif": "tfw", "jp2": "j2w"}


@pytest.mark.parametrize("suffix", ENDINGS)
def test_a_world_file_means_the_same_on_disk_and_remote_and_costs_no_image(
    server: Server, tmp_path: Path, suffix: str
) -> None:
    image, world = write_image(tmp_path / "in" / f"a.{suffix}"), f"a.{ENDINGS[suffix]}"
    for name, (content, is_read) in WORLD_FILES.items():
        (tmp_path / "in" / world).write_bytes(content)
        for url in (str(image), f"{server.url}/{image.name}"):
            file = InputFile(image.name, url, name, sidecars=(world,))
            scene = describe(file, Settings(), 3)
            assert scene.transform == (PLACED if is_read else IDENTITY), name
            doubt = Doubt("side_car", f"{world}: it holds no six numbers")
            assert doubts_beside_place(scene) == (() if is_read else (doubt,)), name


def test_gdal_reads_the_same_where_it_reads_a_world_file(tmp_path: Path) -> None:
    for name in ("plain", "windows", "comma", "seventh", "blank", "comment", "exponent"):
        path = write_image(tmp_path / f"{name}.png")
        path.with_suffix(".pgw").write_bytes(WORLD_FILES[name][0])
        with rasterio.open(path) as src:
            assert tuple(src.transform)[:6] == described(path).transform == PLACED


def test_a_world_file_is_asked_last_and_the_next_one_if_it_says_nothing(
    server: Server, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.pgw").write_text("nothing")
    (tmp_path / "in" / "a.wld").write_text("\n".join(SIX))
    urls = (image, f"{server.url}/a.png")
    for url in urls:
        assert described(url).transform == PLACED
        assert doubts_beside_place(described(url)) == (
            Doubt("side_car", "a.pgw: it holds no six numbers"),
        )
    write_aux(image, "<GeoTransform>7,1,0,8,0,-1</GeoTransform>")
    for url in urls:
        assert described(url).transform == (1.0, 0.0, 7.0, 0.0, -1.0, 8.0)


def test_a_mapinfo_file_still_gives_place_and_crs(tmp_path: Path) -> None:
    """GDAL reads it on disk only, and prefers it to a world file."""
    path = write_image(tmp_path / "a.tif")
    (tmp_path / "a.tfw").write_text("\n".join(SIX))
    points = ((500000, 5000000, 0, 0), (500500, 5000000, 50, 0), (500000, 4999600, 0, 40))
    lines = [f'({x},{y}) ({c},{r}) Label "Pt {n}"' for n, (x, y, c, r) in enumerate(points, 1)]
    (tmp_path / "a.tab").write_text(
        '!table\n!version 300\n!charset WindowsLatin1\n\nDefinition Table\n  File "a.tif"\n'
        '  Type "RASTER"\n  ' + ",\n  ".join(lines) + '\n  CoordSys Earth Projection 8, 104, "m",'
        ' 15, 0, 0.9996, 500000, 0\n  Units "m"\n'
    )
    scene = described(path)
    assert scene.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
    assert "UTM zone 33N" in str(scene.crs)


def test_a_format_of_several_files_keeps_its_place(tmp_path: Path) -> None:
    """Its header file is unknown to whoever opens the image without world files."""
    path = write_raster(tmp_path / "a.bil", noise(3, 40, 50), driver="EHdr")
    for name in tmp_path.glob("*.aux.xml"):
        name.unlink()
    (tmp_path / "a.blw").write_text("\n".join(SIX))
    (file,) = found(path)
    assert file.sidecars == ("a.blw",)
    with rasterio.open(path) as src:
        assert describe(file, Settings(), 3).transform == tuple(src.transform)[:6] != IDENTITY


# ---- damaged side-cars ----------------------------------------------------------------------


def mask_file(width: int, height: int, **tags: object) -> bytes:
    """A mask as GDAL writes it beside an image, the left column invalid."""
    mask = np.full((1, height, width), 255, np.uint8)
    mask[:, :, 0] = 0
    with rasterio.MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=width, height=height, count=1, dtype="uint8", compress="deflate"
        ) as out:
            out.write(mask)
            out.update_tags(**{"INTERNAL_MASK_FLAGS_1": 2, **tags})
        return bytes(memory.read())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"cannot be opened: "),
        (b"this is no mask", r"cannot be opened: not recognized"),
        (mask_file(50, 40)[:60], r"cannot be opened: "),
        (mask_file(25, 20), r"has 25x20 px, and the image 50x40 px"),
    ],
    ids=["empty", "text", "cut", "small"],
)
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_an_image_whose_mask_is_damaged_is_quarantined(
    server: Server, tmp_path: Path, content: bytes, reason: str, suffix: str
) -> None:
    image = write_image(tmp_path / "in" / f"a.{suffix}")
    mask = tmp_path / "in" / f"a.{suffix}.msk"
    mask.write_bytes(content)
    for url in (image, f"{server.url}/{image.name}"):
        with pytest.raises(InputError, match=rf"its mask {mask.name} {reason}") as caught:
            described(url)
        assert caught.value.stage == "describe"
        (file,) = found(url)
        assert describe(file, Settings(nodata=0), 3).width == 50  # the mask is not asked
    mask.unlink()
    mask.symlink_to("nothing")
    with pytest.raises(InputError, match=rf"mask {mask.name} .* it is a link to .*/nothing, which"):
        described(image)


def test_a_mask_whose_pixels_are_damaged_is_named_when_it_is_read(
    server: Server, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    content = bytearray(mask_file(50, 40))
    with rasterio.MemoryFile(bytes(content)).open() as src:
        start = int(src.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    content[start : start + 20] = bytes(20)
    (tmp_path / "in" / "a.png.msk").write_bytes(bytes(content))
    for url in (image, f"{server.url}/a.png"):
        scene = described(url)
        with pytest.raises(InputError, match=r"cannot be read: its mask a\.png\.msk: "):
            read_pixels(scene, scene.rect)


def test_a_whole_mask_is_applied_and_one_without_flags_is_doubted(
    server: Server, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "in" / "a.png")
    mask = tmp_path / "in" / "a.png.msk"
    for content, invalid in (
        (mask_file(50, 40), 40),
        (mask_file(50, 40, INTERNAL_MASK_FLAGS_1=""), 0),
    ):
        mask.write_bytes(content)
        for url in (image, f"{server.url}/a.png"):
            scene = described(url)
            assert np.count_nonzero(~read_pixels(scene, scene.rect).valid_HW) == invalid
            assert [doubt.kind for doubt in doubts_beside_place(scene)] == ["side_car"] * (
                not invalid
            )


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


def test_links_to_no_side_car_are_doubted(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    for name in ("a.png.aux.xml", "a.pgw"):
        (tmp_path / name).symlink_to("nothing")
    scene = described(image)
    assert [d.detail for d in doubts_beside_place(scene)] == [
        f"{name}: it is a link to {tmp_path}/nothing, which does not exist"
        for name in ("a.png.aux.xml", "a.pgw")
    ]
    assert version_of(str(image), scene.sidecars, DEFAULT_ACCESS) == scene.version


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(range(256))])
def test_overviews_decide_nothing(tmp_path: Path, content: bytes) -> None:
    image = write_raster(tmp_path / "a.tif", noise(3, 40, 50))
    scene, pixels = described(image), read_pixels(described(image), described(image).rect)
    (tmp_path / "a.tif.ovr").write_bytes(content)
    assert described(image) == scene
    np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, pixels.values_CHW)


def test_a_page_that_a_server_sends_for_everything_is_no_side_car(
    server: Server, tmp_path: Path
) -> None:
    write_image(tmp_path / "in" / "a.png")
    server.answers_everything = True
    (file,) = found(f"{server.url}/a.png")
    assert file.sidecars == ()


def test_notes_name_the_side_car(tmp_path: Path, small_checkpoint: str) -> None:
    for name in "ab":
        write_image(tmp_path / "in" / f"{name}.png")
        (tmp_path / "in" / f"{name}.pgw").touch()
    receipt = run([str(tmp_path / "in")], small_checkpoint, str(tmp_path / "out"), SETTINGS, LOCAL)
    assert receipt.scenes_done == 2
    assert (
        "2 inputs have files beside them that say nothing, first"
        f" {tmp_path}/in/a.png (a.pgw: it holds no six numbers): such a file counts as absent;"
        " replace it or delete it"
    ) in receipt.notes


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


@pytest.mark.parametrize("mended", [False, True])
def test_a_world_file_that_is_refused_costs_the_place_and_no_pixel(
    server: Server, tmp_path: Path, mended: bool
) -> None:
    data = encoded()
    (tmp_path / "in" / "a.jpg").write_bytes(with_scan_parameters(data, 0, 0, 0) if mended else data)
    (tmp_path / "in" / "a.jgw").write_text("\n".join(SIX))
    (file,) = found(f"{server.url}/a.jpg")
    assert file.sidecars == ("a.jgw",)
    server.refused["a.jgw"] = 403
    scene = describe(file, Settings(), 3)
    assert (scene.transform, scene.mended) == (IDENTITY, mended)
    assert Doubt("side_car", "a.jgw: it cannot be read") in scene.doubts
    with rasterio.open(io.BytesIO(data)) as src:
        np.testing.assert_array_equal(read_pixels(scene, scene.rect).values_CHW, src.read())

"""JPEGs with faults in their headers: mended where no pixel depends on them, else refused."""

from __future__ import annotations

import random
from pathlib import Path

import fsspec
import numpy as np
import pytest

from pipeline.doubt import Doubt
from pipeline.errors import InputError
from pipeline.imagery.header import describe
from pipeline.imagery.input_file import InputFile
from pipeline.imagery.jpeg_header import MAX_STRAY_BYTES
from pipeline.imagery.pixels import read_pixels
from pipeline.scene import Scene
from pipeline.settings import Settings
from tests.support.jpegs import (
    CLEAN,
    EOI,
    encoded,
    of_a_camera,
    segments,
    with_bytes,
    with_scan_parameters,
    without_segment,
)

SEQUENTIAL = [name for name in CLEAN if name != "progressive"]


def describe_jpeg(url: str, data: bytes) -> Scene:
    channels = 1 if data == CLEAN["gray"] or b"\xff\xc0\0\x0b" in data else 3
    return describe(InputFile("a.jpg", url, "v1", (), len(data)), Settings(), channels)


def segmented(tmp_path: Path, data: bytes) -> tuple[np.ndarray, Scene]:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    scene = describe_jpeg(str(path), data)
    return read_pixels(scene, scene.rect).values_CHW, scene


def faults(scene: Scene) -> list[str]:
    return [doubt.detail for doubt in scene.doubts if doubt.kind == "mended"]


@pytest.mark.parametrize("name", CLEAN)
def test_a_sound_jpeg_is_read_as_it_is(tmp_path: Path, name: str) -> None:
    _, scene = segmented(tmp_path, CLEAN[name])
    assert not scene.mended
    assert not faults(scene)


@pytest.mark.parametrize("stray", [b"\0", b"\0\0", b"\1\xff\0\2", b"x" * MAX_STRAY_BYTES])
@pytest.mark.parametrize("name", [name for name in CLEAN if name != "fill bytes"])
def test_stray_bytes_between_segments_are_passed_over(
    tmp_path: Path, name: str, stray: bytes
) -> None:
    expected, _ = segmented(tmp_path, CLEAN[name])
    for segment in list(segments(CLEAN[name]))[1:]:  # GDAL knows a JPEG by its first three bytes
        values, scene = segmented(tmp_path, with_bytes(CLEAN[name], segment.at, stray))
        assert np.array_equal(values, expected)
        assert scene.mended
        assert faults(scene) == [f"{len(stray)} stray bytes before its marker {segment.marker:02X}"]


@pytest.mark.parametrize("parameters", [(0, 0, 0), (1, 63, 0)])
@pytest.mark.parametrize("name", [name for name in SEQUENTIAL if name != "fill bytes"])
def test_parameters_of_a_sequential_scan_mean_nothing(
    tmp_path: Path, name: str, parameters: tuple[int, int, int]
) -> None:
    expected, _ = segmented(tmp_path, CLEAN[name])
    values, scene = segmented(tmp_path, with_scan_parameters(CLEAN[name], *parameters))
    assert np.array_equal(values, expected)
    first, last, bits = parameters
    assert faults(scene) == [f"scan parameters {first}, {last}, {bits} instead of 0, 63, 0"]


def test_several_faults_are_mended_and_named_together(tmp_path: Path) -> None:
    data = encoded()
    expected, _ = segmented(tmp_path, data)
    assert data[6:12] == b"JFIF\0\1"
    data = with_scan_parameters(data[:11] + b"\7" + data[12:], 0, 0, 0)
    *_, table, scan = segments(data)
    data = with_bytes(with_bytes(data, scan.at, b"\0"), table.at, b"\0\0")
    values, scene = segmented(tmp_path, data)
    assert np.array_equal(values, expected)
    assert scene.doubts[-1] == Doubt(
        "mended",
        "JFIF version 7, 2 stray bytes before its marker C4, 1 stray bytes before its marker DA,"
        " scan parameters 0, 0, 0 instead of 0, 63, 0",
    )


@pytest.mark.parametrize("name", ["baseline", "camera", "progressive"])
def test_a_mended_file_is_mended_wherever_it_is(tmp_path: Path, name: str) -> None:
    expected, _ = segmented(tmp_path, CLEAN[name])
    *_, scan = segments(CLEAN[name])
    data = with_bytes(CLEAN[name], scan.at, b"\0\0")
    url = "memory://cameras/a.jpg"
    fs = fsspec.filesystem("memory")
    fs.pipe("/cameras/a.jpg", data)
    try:
        scene = describe_jpeg(url, data)
        assert np.array_equal(read_pixels(scene, scene.rect).values_CHW, expected)
    finally:
        fs.rm("/cameras", recursive=True)
    assert faults(scene) == ["2 stray bytes before its marker DA"]


def stray(data: bytes) -> bytes:
    """The JPEG with a harmless fault."""
    *_, scan = segments(data)
    return with_bytes(data, scan.at, b"\0\0")


def with_zeros(data: bytes, first: int, end: int) -> bytes:
    """The JPEG with zeros in [first, end), counted from the end of its first scan header."""
    *_, scan = segments(data)
    at = scan.at + scan.size
    return data[: at + first] + bytes(end - first) + data[at + end :]


def second_scan(data: bytes) -> int:
    """The offset of the second scan header."""
    *_, scan = segments(data)
    return data.index(b"\xff\xda", scan.at + scan.size)


DAMAGED = {
    "cut": stray(encoded())[:-900],
    "cut camera": with_scan_parameters(of_a_camera(), 0, 0, 0)[:-900],
    "garbled data": stray(encoded())[:-900] + b"\xff\xd0\xff\xd5" * 200 + EOI,
    "stray bytes later on": stray(
        with_bytes(CLEAN["progressive"], second_scan(CLEAN["progressive"]), b"\0\0")
    ),
    "too many stray bytes": with_bytes(encoded(), 2, b"x" * (MAX_STRAY_BYTES + 1)),
    "no Huffman tables": stray(without_segment(encoded(), 0xC4)),
    "a short Huffman table": stray(encoded()).replace(b"\xff\xc4\0\x1f", b"\xff\xc4\0\x1e", 1),
    "no end": CLEAN["progressive"][:-2],
    "zeros over the tables of a scan": with_zeros(encoded(), -6, 0),
    "zeros over a scan header and data": with_zeros(encoded(), -3, 9),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_harmless_fault_hides_no_damage(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="cannot be"):
        segmented(tmp_path, DAMAGED[name])


def test_the_parameters_of_a_progressive_scan_are_not_touched(tmp_path: Path) -> None:
    data = with_scan_parameters(CLEAN["progressive"], 0, 63, 0)
    try:
        _, scene = segmented(tmp_path, data)
    except InputError:
        return
    assert not scene.mended


def test_a_fault_that_is_mended_never_changes_a_pixel(tmp_path: Path) -> None:
    """Any single fault in a header: a run of stray bytes, a wrong byte, length or marker."""
    rng = random.Random(0)
    clean = {name: CLEAN[name] for name in ("baseline", "restart markers", "camera", "optimized")}
    expected = {name: segmented(tmp_path, data)[0] for name, data in clean.items()}
    mended = 0
    for number in range(250):
        name = rng.choice(list(clean))
        data = bytearray(clean[name])
        segment = rng.choice(list(segments(clean[name])))
        match number % 4:
            case 0:
                run = rng.randbytes(rng.randrange(1, 20))
                data[segment.at : segment.at] = run
            case 1:
                data[segment.at + rng.randrange(2)] = rng.randrange(256)
            case 2:
                length = segment.size - 2 + rng.randrange(-20, 21)
                data[segment.at + 2 : segment.at + 4] = max(0, length).to_bytes(2, "big")
            case _:
                data[segment.at + rng.randrange(segment.size)] = 0
        try:
            values, scene = segmented(tmp_path, bytes(data))
        except InputError:
            continue
        if scene.mended:
            mended += 1
            assert np.array_equal(values, expected[name]), (number, faults(scene))
    assert mended > 30

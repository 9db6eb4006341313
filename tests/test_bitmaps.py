"""Bitmaps with color tables: those that GDAL reads as they are, and those that it does not."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.imagery.pixels import read_pixels
from tests.support.rasters import noise
from tests.support.sidecars import described

WIDTH, HEIGHT = 6, 3
COLORS = np.arange(16 * 4, dtype=np.uint8).reshape(16, 4) * 3
"""Blue, green, red and nothing, for each index."""
INDICES = noise(HEIGHT, WIDTH) % 16
RLE8, RLE4 = 1, 2
END_OF_ROW, END = b"\0\0", b"\0\1"


def bitmap(
    pixels: bytes, compression: int, *, bits: int = 8, header: int = 40, height: int = HEIGHT,
    start: int | None = None,
) -> bytes:  # fmt: skip
    table_end = 14 + header + COLORS.nbytes
    fields = (header, WIDTH, height, 1, bits, compression, len(pixels), 0, 0, len(COLORS), 0)
    info = struct.pack("<IiiHHIIiiII", *fields).ljust(header, b"\0")
    size = table_end + len(pixels)
    lead = struct.pack("<2sIII", b"BM", size, 0, start or table_end)
    return lead + info + COLORS.tobytes() + pixels


FROM_BELOW = INDICES[::-1]
RUNS = END_OF_ROW.join(b"".join(bytes([1, v]) for v in row) for row in FROM_BELOW)
ABSOLUTE = END_OF_ROW.join(b"\0" + bytes([WIDTH, *row]) for row in FROM_BELOW)
NIBBLES = END_OF_ROW.join(b"".join(bytes([1, v << 4]) for v in row) for row in FROM_BELOW)
PLAIN = b"".join(row.tobytes().ljust(8, b"\0") for row in FROM_BELOW)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (PLAIN, {"compression": 0}),
        (RUNS + END, {"compression": RLE8}),
        (RUNS + END_OF_ROW + END, {"compression": RLE8}),
        (ABSOLUTE + END, {"compression": RLE8}),
        (NIBBLES + END, {"compression": RLE4, "bits": 4}),
    ],
    ids=["plain", "runs", "rows", "absolute", "nibbles"],
)
def test_whole_bitmaps_are_read(tmp_path: Path, pixels: bytes, options: dict[str, int]) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(bitmap(pixels, **options))
    scene = described(path)
    values = read_pixels(scene, scene.rect).values_CHW
    assert np.array_equal(values, np.moveaxis(COLORS[INDICES][..., 2::-1], 2, 0))
    with Image.open(path) as image:
        assert np.array_equal(values, np.moveaxis(np.asarray(image.convert("RGB")), 2, 0))


@pytest.mark.parametrize(
    ("pixels", "options", "words"),
    [
        (b"\0\2\2\0" + RUNS[4:] + END, {}, "pass over pixels"),
        (RUNS.replace(END_OF_ROW, b"\0\2\0\0", 1) + END, {}, "pass over pixels"),
        (RUNS.replace(END_OF_ROW, b"", 1) + END, {}, "pass over pixels"),
        (RUNS + END, {"height": -HEIGHT}, "from top to bottom"),
        (PLAIN, {"compression": 0, "header": 64}, "OS/2 2, whose color table"),
        (PLAIN, {"compression": 0, "start": 54}, "inside its color table"),
    ],
    ids=["jump", "still", "long", "top", "os2", "start"],
)
def test_a_bitmap_that_gdal_misreads_is_quarantined_with_the_reason(
    tmp_path: Path, pixels: bytes, options: dict[str, int], words: str
) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(bitmap(pixels, **{"compression": RLE8, **options}))
    with pytest.raises(InputError, match=f"{words}.*; convert it, e.g. magick") as caught:
        described(path)
    assert caught.value.stage == "describe"
